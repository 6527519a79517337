#include "coordinator/api/fleet_examiner.h"

#include <map>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "common/base/status.h"
#include "common/config/version.h"
#include "common/host/check.h"
#include "common/host/clock_check.h"
#include "common/host/storage_checks.h"
#include "coordinator/fleet/link_choice.h"
#include "coordinator/lifecycle/proto_time.h"

namespace anneal {

using internal::Examination;
using internal::ExaminationResult;

namespace {

constexpr char kAnswer[] = "answer";
constexpr char kVersion[] = "version";
constexpr int kTokenBytes = 16;
constexpr absl::Duration kLookAfter = absl::Milliseconds(200);
// No worker has it: its letters are small ones.
constexpr char kOwnMark[] = "COORDINATOR";

std::string NameOf(const v1::Worker& worker) {
  return std::string(absl::StripPrefix(worker.name(), "workers/"));
}

v1::Check StateCheck(const v1::Worker& worker) {
  const std::string state(absl::StripPrefix(v1::Worker::State_Name(worker.state()), "STATE_"));
  switch (worker.state()) {
    case v1::Worker::STATE_EXCLUDED:
      return WarningCheck(kAnswer, state,
                          "trainers have died there before their first step: see why with anneal "
                          "events, then anneal workers undrain");
    case v1::Worker::STATE_DRAINING:
      return WarningCheck(kAnswer, state, "it gets no work until anneal workers undrain");
    default:
      return OkCheck(kAnswer, absl::StrCat(state, ", ", worker.slots_size(), " slots"));
  }
}

v1::Check VersionCheck(const v1::Worker& worker) {
  if (worker.version() == Version()) return OkCheck(kVersion, worker.version());
  return WarningCheck(kVersion, absl::StrCat(worker.version(), ", the coordinator has ", Version()),
                      "different versions beside each other are meant for the hour of an upgrade");
}

}  // namespace

// One examination: what was asked, and what has been heard so far. Shared with the sink that the
// loop holds. Thread-safe.
class FleetExaminer::Round {
 public:
  Round(std::string token, const FleetRoster::Workers& workers, Clock& clock)
      : token_(std::move(token)), ask_time_(clock.TimeNow()), clock_(clock), workers_(workers) {
    for (const v1::Worker& worker : workers) {
      if (worker.state() != v1::Worker::STATE_LOST) asked_[NameOf(worker)];
    }
  }

  const std::string& token() const { return token_; }
  std::string folder() const { return absl::StrCat("tmp/doctor-", token_); }

  void Hear(const std::string& worker, const ExaminationResult& result) {
    absl::MutexLock lock(&mu_);
    const auto found = asked_.find(worker);
    if (found == asked_.end() || result.token() != token_) return;
    found->second.heard = true;
    found->second.result = result;
    found->second.clock.SentAt(ask_time_, TimeOf(result.hear_time()));
    found->second.clock.ReceivedAt(clock_.TimeNow(), TimeOf(result.send_time()));
  }

  // Waits until all have come so far, or `patience` is over; with `only_ready`, all who take part
  // in the second half.
  absl::Status Await(bool (ExaminationResult::*reached)() const, bool only_ready,
                     absl::Duration patience, const std::function<bool()>& cancelled) {
    const absl::Duration deadline = clock_.MonotonicNow() + patience;
    absl::MutexLock lock(&mu_);
    const auto all = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
      for (const auto& [name, asked] : asked_) {
        if (only_ready && !asked.takes_part) continue;
        if (!(asked.result.*reached)()) return false;
      }
      return true;
    };
    while (!clock_.AwaitWithTimeout(&mu_, absl::Condition(&all), kLookAfter)) {
      if (cancelled()) return absl::CancelledError("nobody waits for the answer any more");
      if (clock_.MonotonicNow() >= deadline) break;
    }
    return absl::OkStatus();
  }

  std::map<std::string, Examination> FirstHalf() {
    absl::MutexLock lock(&mu_);
    std::map<std::string, Examination> wanted;
    for (const auto& [name, asked] : asked_) wanted[name] = NewExamination();
    return wanted;
  }

  // Those who are ready go on with each other.
  std::map<std::string, Examination> SecondHalf(bool own_mark, Random& random) {
    absl::MutexLock lock(&mu_);
    std::map<std::string, Examination> wanted;
    std::vector<std::string> listening;
    for (auto& [name, asked] : asked_) {
      Examination& examination = wanted[name] = NewExamination();
      asked.takes_part = asked.result.is_ready();
      examination.set_everyone_is_ready(asked.takes_part);
      if (!asked.result.listen_address().empty()) listening.push_back(name);
      if (own_mark) examination.add_marks(kOwnMark);
    }
    for (auto& [name, examination] : wanted) {
      for (const std::string& other : MarksLeft()) {
        if (other != name) examination.add_marks(other);
      }
    }
    for (const auto& [a, b] : ChooseLinks(static_cast<int>(listening.size()), random)) {
      Examination::Peer& peer = *wanted[listening[a]].add_peers();
      peer.set_worker(listening[b]);
      peer.set_address(asked_[listening[b]].result.listen_address());
    }
    return wanted;
  }

  // Names of the workers that have left one.
  std::vector<std::string> Marks() {
    absl::MutexLock lock(&mu_);
    return MarksLeft();
  }

  std::vector<v1::Check> ToChecks() {
    absl::MutexLock lock(&mu_);
    std::vector<MeasuredLink> links;
    for (const auto& [name, asked] : asked_) {
      for (const ExaminationResult::Link& link : asked.result.links()) {
        links.push_back({name, link.worker(), link.bytes_per_second(), link.round_trip_seconds(),
                         link.error()});
      }
    }
    const std::vector<v1::Check> judged = JudgeLinks(links);
    std::vector<v1::Check> checks;
    for (const v1::Worker& worker : workers_) {
      for (v1::Check& check : ChecksOf(worker)) {
        check.set_machine(worker.name());
        checks.push_back(std::move(check));
      }
      for (const v1::Check& link : judged) {
        if (link.machine() == worker.name()) checks.push_back(link);
      }
    }
    return checks;
  }

 private:
  struct Asked {
    bool heard = false;
    bool takes_part = false;  // in the second half
    ExaminationResult result;
    ClockBounds clock;
  };

  Examination NewExamination() const {
    Examination examination;
    examination.set_token(token_);
    *examination.mutable_ask_time() = TimestampOf(ask_time_);
    return examination;
  }

  std::vector<std::string> MarksLeft() const ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    std::vector<std::string> names;
    for (const auto& [name, asked] : asked_) {
      if (asked.result.has_left_mark()) names.push_back(name);
    }
    return names;
  }

  std::vector<v1::Check> ChecksOf(const v1::Worker& worker) const ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    const auto found = asked_.find(NameOf(worker));
    if (found == asked_.end()) {
      return {FailedCheck(kAnswer, "LOST: not heard from",
                          "see whether its machine and anneal-worker run, and what its log says")};
    }
    const Asked& asked = found->second;
    std::vector<v1::Check> checks;
    if (asked.result.is_complete()) {
      checks.push_back(StateCheck(worker));
    } else {
      checks.push_back(FailedCheck(
          kAnswer, asked.heard ? "has begun and did not end in time" : "no answer in time",
          asked.heard ? "its storage or its network may hang: what is missing below was not done"
                      : "its version may be too old for this, or the worker stands still"));
    }
    checks.push_back(VersionCheck(worker));
    if (asked.heard) checks.push_back(asked.clock.ToCheck("the coordinator"));
    checks.insert(checks.end(), asked.result.checks().begin(), asked.result.checks().end());
    return checks;
  }

  const std::string token_;
  const absl::Time ask_time_;
  Clock& clock_;
  const FleetRoster::Workers workers_;
  absl::Mutex mu_;
  std::map<std::string, Asked> asked_ ABSL_GUARDED_BY(mu_);
};

absl::StatusOr<v1::CheckFleetResponse> FleetExaminer::Examine(
    const std::function<bool()>& cancelled) {
  if (busy_.exchange(true))
    return absl::AbortedError("the fleet is being examined already: wait for that");
  const absl::Cleanup free = [this] { busy_ = false; };
  const auto round = std::make_shared<Round>(RandomHex(kTokenBytes, parts_.random),
                                             *parts_.roster.workers(), parts_.clock);
  const FleetInbox::ExaminationSink sink = [round](const std::string& worker,
                                                   const ExaminationResult& result) {
    round->Hear(worker, result);
  };
  FileSystem& files = parts_.storage.files();
  const std::string folder = parts_.storage.Absolute(round->folder());
  const absl::Cleanup put_away = [&] {
    // In this order: two who remove the same at once stand in each other's way.
    files.RemoveTree(folder).IgnoreError();
    parts_.inbox.Examine({}, nullptr);
  };

  parts_.inbox.Examine(round->FirstHalf(), sink);
  std::vector<v1::Check> own = {
      CheckStorage(files, absl::StrCat(folder, "/of-", kOwnMark), parts_.clock)};
  const absl::Status left = LeaveMark(files, folder, kOwnMark, round->token());
  ANNEAL_RETURN_IF_ERROR(round->Await(&ExaminationResult::is_ready, /*only_ready=*/false,
                                      patience_.answers, cancelled));
  parts_.inbox.Examine(round->SecondHalf(left.ok(), parts_.random), sink);
  own.push_back(
      CheckMarks(files, folder, round->Marks(), round->token(), patience_.marks, parts_.clock));
  ANNEAL_RETURN_IF_ERROR(round->Await(&ExaminationResult::is_complete, /*only_ready=*/true,
                                      patience_.answers, cancelled));

  v1::CheckFleetResponse response;
  for (v1::Check& check : own) {
    check.set_machine("coordinator");
    *response.add_checks() = std::move(check);
  }
  for (v1::Check& check : round->ToChecks()) *response.add_checks() = std::move(check);
  return response;
}

}  // namespace anneal
