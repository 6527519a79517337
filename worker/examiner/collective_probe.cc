#include "worker/examiner/collective_probe.h"

#include <sys/socket.h>

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "worker/examiner/probe_socket.h"
#include "worker/examiner/short_run.h"

namespace anneal {

using internal::ExaminationResult;
using protocol::CollectiveFigures;

namespace {

// The other rank ends with ours, or, after ours has failed, soon fails too.
constexpr absl::Duration kResultPatience = absl::Seconds(20);
constexpr absl::Duration kLastWords = absl::Seconds(5);
// Sent each way at a time.
constexpr int kMegabytesByCpu = 8, kMegabytesByGpu = 64;

std::string KindName(v1::ResourceSpec::Accelerator accelerator) {
  return accelerator == v1::ResourceSpec::ACCELERATOR_GPU ? "GPU" : "CPU";
}

std::vector<std::string> BenchArguments(const TrainerSlot& slot, int rank,
                                        const std::string& data_address) {
  const bool gpu = slot.accelerator == v1::ResourceSpec::ACCELERATOR_GPU;
  return {"bench-collective",
          "--device",
          gpu ? "cuda" : "cpu",
          "--rank",
          absl::StrCat(rank),
          "--data-address",
          data_address,
          "--bytes",
          absl::StrCat(int64_t{gpu ? kMegabytesByGpu : kMegabytesByCpu} << 20)};
}

std::string StringOf(const Json& json, const char* name) {
  const auto found = json.find(name);
  return found != json.end() && found->is_string() ? found->get<std::string>() : "";
}

}  // namespace

std::string CollectiveProbe::AllBusy(v1::ResourceSpec::Accelerator accelerator) const {
  return absl::StrCat("busy: no ", KindName(accelerator), " slot of ", options_.worker, " is free");
}

absl::StatusOr<CollectiveFigures> CollectiveProbe::RunRank0(int fd, SlotLender::Loan& loan,
                                                            const std::function<bool()>& must_end) {
  ANNEAL_ASSIGN_OR_RETURN(
      const std::unique_ptr<ShortRun> run,
      ShortRun::Start(loan.slot(), BenchArguments(loan.slot(), 0, options_.data_address), must_end,
                      options_.patience, clock_));
  const absl::StatusOr<std::string> rendezvous = run->AwaitWord(protocol::kRendezvousWord);
  if (!rendezvous.ok()) {
    // The other worker need not wait for it.
    ::shutdown(fd, SHUT_WR);
    return rendezvous.status();
  }
  ANNEAL_RETURN_IF_ERROR(probe::WriteJson(fd, {{"rendezvous", *rendezvous}}));
  ANNEAL_ASSIGN_OR_RETURN(const Json result, run->AwaitResult());
  return protocol::CollectiveFiguresFromJson(result);
}

absl::StatusOr<CollectiveFigures> CollectiveProbe::RunRank1(int fd, SlotLender::Loan& loan,
                                                            const std::string& rendezvous) {
  std::vector<std::string> arguments = BenchArguments(loan.slot(), 1, options_.data_address);
  arguments.insert(arguments.end(), {"--rendezvous", rendezvous});
  ANNEAL_ASSIGN_OR_RETURN(
      const std::unique_ptr<ShortRun> run,
      ShortRun::Start(
          loan.slot(), arguments, [&] { return loan.is_over() || probe::IsClosed(fd); },
          options_.patience, clock_));
  ANNEAL_ASSIGN_OR_RETURN(const Json result, run->AwaitResult());
  return protocol::CollectiveFiguresFromJson(result);
}

absl::Status CollectiveProbe::MeasureWith(int fd, SlotLender::Loan& loan,
                                          const std::function<bool()>& cancelled,
                                          ExaminationResult::Collective& found) {
  // Without the other rank ours would wait for its timeout.
  std::optional<absl::StatusOr<Json>> answer;
  const auto other_has_failed = [&] {
    if (!answer.has_value() && probe::HasInput(fd)) answer = probe::ReadJson(fd);
    return answer.has_value() &&
           (!answer->ok() || (*answer)->contains("error") || (*answer)->contains("skipped"));
  };
  const absl::StatusOr<CollectiveFigures> here =
      RunRank0(fd, loan, [&] { return loan.is_over() || cancelled() || other_has_failed(); });
  if (loan.is_over() || cancelled()) return absl::AbortedError("broken off: a task needs the slot");
  if (!answer.has_value()) {
    probe::SetReadPatience(fd, here.ok() ? kResultPatience : kLastWords);
    answer = probe::ReadJson(fd);
  }
  std::vector<std::string> troubles;
  if (!here.ok() && !absl::IsAborted(here.status()))
    troubles.push_back(absl::StrCat(options_.worker, ": ", here.status().message()));
  if (answer->ok()) {
    if (const std::string skipped = StringOf(**answer, "skipped"); !skipped.empty())
      return absl::AbortedError(skipped);
    if (std::string trouble = StringOf(**answer, "error"); !trouble.empty())
      troubles.push_back(std::move(trouble));
  } else if (troubles.empty()) {
    troubles.push_back(absl::StrCat("the other worker: ", answer->status().message()));
  }
  if (!troubles.empty()) return absl::UnavailableError(absl::StrJoin(troubles, "; "));
  ANNEAL_ASSIGN_OR_RETURN(const CollectiveFigures there,
                          protocol::CollectiveFiguresFromJson(**answer));
  found.set_library(here->library);
  found.set_there_bytes_per_second(there.one_way_bytes_per_second);
  found.set_back_bytes_per_second(here->one_way_bytes_per_second);
  found.set_all_to_all_there_bytes_per_second(there.all_to_all_bytes_per_second);
  found.set_all_to_all_back_bytes_per_second(here->all_to_all_bytes_per_second);
  found.set_all_reduce_bytes_per_second(here->all_reduce_bytes_per_second);
  found.set_latency_seconds(here->latency_seconds);
  return absl::OkStatus();
}

std::optional<ExaminationResult::Collective> CollectiveProbe::Measure(
    int fd, v1::ResourceSpec::Accelerator accelerator, const std::function<bool()>& cancelled) {
  ExaminationResult::Collective found;
  found.set_accelerator(accelerator);
  const auto failed = [&found](const absl::Status& status) {
    // What a task has ended is no fault of the link.
    if (absl::IsAborted(status)) {
      found.set_skipped(std::string(status.message()));
    } else {
      found.set_error(std::string(status.message()));
    }
    return found;
  };
  absl::Status asked = probe::WriteJson(fd, {{"accelerator", static_cast<int>(accelerator)}});
  if (!asked.ok()) return failed(asked);
  const absl::StatusOr<Json> answer = probe::ReadJson(fd);
  if (!answer.ok()) return failed(answer.status());
  if (answer->contains("absent")) return std::nullopt;
  if (const std::string skipped = StringOf(*answer, "skipped"); !skipped.empty())
    return failed(absl::AbortedError(skipped));
  const std::unique_ptr<SlotLender::Loan> loan = lender_.Borrow(accelerator);
  if (loan == nullptr) return failed(absl::AbortedError(AllBusy(accelerator)));
  const absl::Status measured = MeasureWith(fd, *loan, cancelled, found);
  if (!measured.ok()) return failed(measured);
  return found;
}

absl::Status CollectiveProbe::Answer(int fd) {
  ANNEAL_ASSIGN_OR_RETURN(const Json asked, probe::ReadJson(fd));
  const auto number = asked.find("accelerator");
  if (number == asked.end() || !number->is_number_integer())
    return absl::InvalidArgumentError("not asked for a kind of slot");
  const auto accelerator = static_cast<v1::ResourceSpec::Accelerator>(number->get<int>());
  if (!lender_.Has(accelerator)) return probe::WriteJson(fd, {{"absent", true}});
  const std::unique_ptr<SlotLender::Loan> loan = lender_.Borrow(accelerator);
  if (loan == nullptr) return probe::WriteJson(fd, {{"skipped", AllBusy(accelerator)}});
  ANNEAL_RETURN_IF_ERROR(probe::WriteJson(fd, {{"ready", true}}));
  probe::SetReadPatience(fd, options_.patience);
  ANNEAL_ASSIGN_OR_RETURN(const Json go, probe::ReadJson(fd));
  const absl::StatusOr<CollectiveFigures> figures = RunRank1(fd, *loan, StringOf(go, "rendezvous"));
  if (absl::IsAborted(figures.status()))
    return probe::WriteJson(fd, {{"skipped", std::string(figures.status().message())}});
  if (!figures.ok()) {
    ANNEAL_LOG(WARNING) << "collectives could not be measured"
                        << Field("why", figures.status().message());
    return probe::WriteJson(
        fd, {{"error", absl::StrCat(options_.worker, ": ", figures.status().message())}});
  }
  return probe::WriteJson(fd, protocol::ToJson(*figures));
}

}  // namespace anneal
