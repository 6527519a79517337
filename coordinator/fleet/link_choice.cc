#include "coordinator/fleet/link_choice.h"

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/host/check.h"

namespace anneal {

using internal::ExaminationResult;

namespace {

constexpr int kMostForAllPairs = 32;
// Of the median. Measurements share switches and processors, and differ by less.
constexpr double kSlow = 0.25;

// Everybody against everybody, as in a tournament: one stays where it is, and the others move round
// a circle. With an odd number one pauses in each round.
std::vector<LinkRound> PlanTournament(int count) {
  if (count < 2) return {};
  const int seats = count + count % 2;  // the last is empty with an odd number
  std::vector<LinkRound> rounds;
  for (int turn = 0; turn < seats - 1; ++turn) {
    const auto at = [&](int seat) { return seat == 0 ? 0 : 1 + (seat - 1 + turn) % (seats - 1); };
    LinkRound round;
    for (int seat = 0; seat < seats / 2; ++seat) {
      const auto [a, b] = std::minmax({at(seat), at(seats - 1 - seat)});
      if (b < count) round.push_back({a, b});
    }
    std::sort(round.begin(), round.end());
    rounds.push_back(std::move(round));
  }
  return rounds;
}

std::set<std::pair<int, int>> ChooseSome(int count, Random& random) {
  std::set<std::pair<int, int>> chosen;
  for (int a = 0; a < count; ++a) {
    const int b = (a + 1) % count;
    chosen.insert({std::min(a, b), std::max(a, b)});
  }
  while (chosen.size() < 2 * static_cast<size_t>(count)) {
    const int a = static_cast<int>(random.Next() % static_cast<uint64_t>(count));
    const int b = static_cast<int>(random.Next() % static_cast<uint64_t>(count));
    if (a != b) chosen.insert({std::min(a, b), std::max(a, b)});
  }
  return chosen;
}

// Each pair in the first round where both are free.
std::vector<LinkRound> Pack(const std::set<std::pair<int, int>>& pairs) {
  std::vector<LinkRound> rounds;
  std::vector<std::set<int>> taken;
  for (const auto& [a, b] : pairs) {
    size_t round = 0;
    while (round < rounds.size() && taken[round].count(a) + taken[round].count(b) > 0) ++round;
    if (round == rounds.size()) {
      rounds.emplace_back();
      taken.emplace_back();
    }
    rounds[round].push_back({a, b});
    taken[round].insert({a, b});
  }
  return rounds;
}

double Median(std::vector<double> speeds) {
  if (speeds.empty()) return 0;
  std::sort(speeds.begin(), speeds.end());
  return speeds[speeds.size() / 2];
}

// Both directions of a measurement.
struct Ways {
  double there = 0, back = 0;  // bytes a second
};

std::string MegabytesText(double bytes_per_second) {
  return absl::StrFormat("%.0f MB/s", bytes_per_second / 1e6);
}

// "w1 to w2 1000 MB/s, w2 to w1 900 MB/s"
std::string WaysText(const std::string& from, const std::string& to, const Ways& ways) {
  return absl::StrCat(from, " to ", to, " ", MegabytesText(ways.there), ", ", to, " to ", from, " ",
                      MegabytesText(ways.back));
}

v1::Check Judge(const std::string& name, const std::string& measured, const MeasuredLink& link,
                const Ways& ways, double median) {
  const bool there = ways.there < kSlow * median, back = ways.back < kSlow * median;
  if (!there && !back) return OkCheck(name, measured);
  const std::string& to = link.link.worker();
  const std::string which = there && back ? "both ways are"
                            : there       ? absl::StrCat(link.from, " to ", to, " is")
                                          : absl::StrCat(to, " to ", link.from, " is");
  return WarningCheck(
      name, absl::StrCat(measured, "; ", which, " slow: the median is ", MegabytesText(median)),
      "jobs run at the pace of their slowest link: look at both ends' network");
}

v1::Check JudgePlain(const MeasuredLink& measured, double median) {
  const ExaminationResult::Link& link = measured.link;
  const std::string name = absl::StrCat("link to ", link.worker());
  if (!link.error().empty()) {
    return FailedCheck(name, link.error(),
                       "open the ports of net.ipv4.ip_local_port_range between the workers, and "
                       "give --data-address where there are several networks");
  }
  const Ways ways{link.bytes_per_second(), link.back_bytes_per_second()};
  return Judge(
      name,
      absl::StrCat(WaysText(measured.from, link.worker(), ways),
                   absl::StrFormat(", round trip %.2f ms", link.round_trip_seconds() * 1e3)),
      measured, ways, median);
}

std::string KindName(v1::ResourceSpec::Accelerator accelerator) {
  return accelerator == v1::ResourceSpec::ACCELERATOR_GPU ? "GPU" : "CPU";
}

v1::Check JudgeCollective(const MeasuredLink& measured, const ExaminationResult::Collective& found,
                          double median) {
  const std::string& to = measured.link.worker();
  const std::string name = absl::StrCat(KindName(found.accelerator()), " collectives with ", to);
  if (!found.skipped().empty()) return OkCheck(name, absl::StrCat("skipped: ", found.skipped()));
  if (!found.error().empty()) {
    return FailedCheck(name, found.error(),
                       "jobs on slots of both would fail of it: look at the trainer's message, the "
                       "ports between them and docs/operations/network.md");
  }
  const Ways ways{found.there_bytes_per_second(), found.back_bytes_per_second()};
  const std::string text =
      absl::StrCat(found.library(), ": ", WaysText(measured.from, to, ways), "; all-to-all ",
                   MegabytesText(found.all_to_all_there_bytes_per_second()), " and ",
                   MegabytesText(found.all_to_all_back_bytes_per_second()), "; all-reduce ",
                   MegabytesText(found.all_reduce_bytes_per_second()),
                   absl::StrFormat(", latency %.2f ms", found.latency_seconds() * 1e3));
  return Judge(name, text, measured, ways, median);
}

}  // namespace

std::vector<LinkRound> PlanLinkRounds(int count, bool all_pairs, Random& random) {
  if (all_pairs || count <= kMostForAllPairs) return PlanTournament(count);
  return Pack(ChooseSome(count, random));
}

std::vector<v1::Check> JudgeLinks(const std::vector<MeasuredLink>& links) {
  std::vector<double> plain;
  std::map<v1::ResourceSpec::Accelerator, std::vector<double>> collective;
  for (const MeasuredLink& measured : links) {
    const ExaminationResult::Link& link = measured.link;
    if (link.error().empty())
      plain.insert(plain.end(), {link.bytes_per_second(), link.back_bytes_per_second()});
    for (const ExaminationResult::Collective& found : link.collectives()) {
      if (!found.skipped().empty() || !found.error().empty()) continue;
      std::vector<double>& speeds = collective[found.accelerator()];
      speeds.insert(speeds.end(), {found.there_bytes_per_second(), found.back_bytes_per_second()});
    }
  }
  std::vector<v1::Check> checks;
  const auto add = [&checks](const MeasuredLink& measured, v1::Check check) {
    check.set_machine(absl::StrCat("workers/", measured.from));
    checks.push_back(std::move(check));
  };
  const double plain_median = Median(plain);
  for (const MeasuredLink& measured : links) {
    add(measured, JudgePlain(measured, plain_median));
    for (const ExaminationResult::Collective& found : measured.link.collectives())
      add(measured, JudgeCollective(measured, found, Median(collective[found.accelerator()])));
  }
  return checks;
}

}  // namespace anneal
