#include "coordinator/fleet/link_choice.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/host/check.h"

namespace anneal {
namespace {

constexpr int kMostForAllPairs = 6;
// Of the median. Measurements share switches and processors, and differ by less.
constexpr double kSlow = 0.25;

double MedianSpeed(const std::vector<MeasuredLink>& links) {
  std::vector<double> speeds;
  for (const MeasuredLink& link : links) {
    if (link.error.empty()) speeds.push_back(link.bytes_per_second);
  }
  if (speeds.empty()) return 0;
  std::sort(speeds.begin(), speeds.end());
  return speeds[speeds.size() / 2];
}

}  // namespace

std::vector<std::pair<int, int>> ChooseLinks(int count, Random& random) {
  std::set<std::pair<int, int>> chosen;
  if (count <= kMostForAllPairs) {
    for (int a = 0; a < count; ++a) {
      for (int b = a + 1; b < count; ++b) chosen.insert({a, b});
    }
  } else {
    for (int a = 0; a < count; ++a) chosen.insert(std::minmax(a, (a + 1) % count));
    while (chosen.size() < 2 * static_cast<size_t>(count)) {
      const int a = static_cast<int>(random.Next() % static_cast<uint64_t>(count));
      const int b = static_cast<int>(random.Next() % static_cast<uint64_t>(count));
      if (a != b) chosen.insert(std::minmax(a, b));
    }
  }
  return {chosen.begin(), chosen.end()};
}

std::vector<v1::Check> JudgeLinks(const std::vector<MeasuredLink>& links) {
  const double median = MedianSpeed(links);
  std::vector<v1::Check> checks;
  for (const MeasuredLink& link : links) {
    const std::string name = absl::StrCat("link to ", link.to);
    const std::string measured =
        absl::StrFormat("%.0f MB/s, round trip %.2f ms", link.bytes_per_second / 1e6,
                        link.round_trip_seconds * 1e3);
    v1::Check check = OkCheck(name, measured);
    if (!link.error.empty()) {
      check = FailedCheck(name, link.error,
                          "open the ports of net.ipv4.ip_local_port_range between the workers, "
                          "and give --data-address where there are several networks");
    } else if (link.bytes_per_second < kSlow * median) {
      check = WarningCheck(
          name, absl::StrCat(measured, absl::StrFormat("; the median is %.0f MB/s", median / 1e6)),
          "jobs run at the pace of their slowest link: look at both ends' network");
    }
    check.set_machine(absl::StrCat("workers/", link.from));
    checks.push_back(std::move(check));
  }
  return checks;
}

}  // namespace anneal
