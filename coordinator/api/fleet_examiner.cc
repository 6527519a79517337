#include "coordinator/api/fleet_examiner.h"

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "common/base/status.h"
#include "common/base/version.h"
#include "common/host/check.h"
#include "common/host/clock_check.h"
#include "common/host/storage_checks.h"
#include "common/host/storage_marks.h"
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

  // What all who take part are to do next, in a step of its own; `add` says more to each.
  template <typename Add>
  std::map<std::string, Examination> NextStep(Examination::Work work, const Add& add) {
    absl::MutexLock lock(&mu_);
    ++step_;
    std::map<std::string, Examination> wanted;
    for (const auto& [name, asked] : asked_) {
      if (!asked.takes_part) continue;
      Examination& examination = wanted[name];
      examination.set_token(token_);
      *examination.mutable_ask_time() = TimestampOf(ask_time_);
      examination.set_step(step_);
      examination.set_work(work);
      add(name, examination);
    }
    return wanted;
  }
  std::map<std::string, Examination> NextStep(Examination::Work work) {
    return NextStep(work, [](const std::string&, Examination&) {});
  }
  // With these marks, each without its own.
  std::map<std::string, Examination> NextStep(Examination::Work work,
                                              const std::vector<std::string>& marks) {
    return NextStep(work, [&marks](const std::string& name, Examination& examination) {
      for (const std::string& mark : marks) {
        if (mark != name) examination.add_marks(mark);
      }
    });
  }

  // Waits until all who take part have done the step, or `patience` is over.
  absl::Status Await(absl::Duration patience, const std::function<bool()>& cancelled) {
    const absl::Duration deadline = clock_.MonotonicNow() + patience;
    absl::MutexLock lock(&mu_);
    const auto all = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
      for (const auto& [name, asked] : asked_) {
        if (asked.takes_part && asked.result.step() < step_) return false;
      }
      return true;
    };
    while (!clock_.AwaitWithTimeout(&mu_, absl::Condition(&all), kLookAfter)) {
      if (cancelled()) return absl::CancelledError("nobody waits for the answer any more");
      if (clock_.MonotonicNow() >= deadline) break;
    }
    for (auto& [name, asked] : asked_)
      asked.takes_part = asked.takes_part && asked.result.step() >= step_;
    return absl::OkStatus();
  }

  // Names of the workers that have left marks, or changed them.
  std::vector<std::string> Marks(bool (ExaminationResult::*has)() const) {
    absl::MutexLock lock(&mu_);
    std::vector<std::string> names;
    for (const auto& [name, asked] : asked_) {
      if (asked.takes_part && (asked.result.*has)()) names.push_back(name);
    }
    return names;
  }

  // Workers whose links can be measured.
  // Those whose links can be measured, in groups that jobs may span: by kind of slot, of which a
  // job has one; all together where a worker has both.
  std::vector<std::vector<std::string>> Listening() {
    std::map<std::string, bool> with_gpu;
    bool some_have_both = false;
    for (const v1::Worker& worker : workers_) {
      const auto is_gpu = [](const v1::Slot& slot) {
        return slot.accelerator() == v1::ResourceSpec::ACCELERATOR_GPU;
      };
      const auto gpus = std::count_if(worker.slots().begin(), worker.slots().end(), is_gpu);
      with_gpu[NameOf(worker)] = gpus > 0;
      some_have_both = some_have_both || (gpus > 0 && gpus < worker.slots_size());
    }
    absl::MutexLock lock(&mu_);
    std::map<bool, std::vector<std::string>> groups;
    for (const auto& [name, asked] : asked_) {
      if (asked.takes_part && !asked.result.listen_address().empty())
        groups[!some_have_both && with_gpu[name]].push_back(name);
    }
    std::vector<std::vector<std::string>> listening;
    for (auto& [gpu, names] : groups) listening.push_back(std::move(names));
    return listening;
  }

  // Pairs of a round, numbers in `names`. One whose other end has dropped out is left out.
  std::map<std::string, Examination> NextLinks(const std::vector<std::string>& names,
                                               const LinkRound& pairs) {
    std::map<std::string, Examination::Peer> peers;
    {
      absl::MutexLock lock(&mu_);
      for (const auto& [a, b] : pairs) {
        const Asked& other = asked_[names[b]];
        if (!other.takes_part) continue;
        Examination::Peer& peer = peers[names[a]];
        peer.set_worker(names[b]);
        peer.set_address(other.result.listen_address());
      }
    }
    return NextStep(Examination::WORK_MEASURE_LINKS,
                    [&peers](const std::string& name, Examination& examination) {
                      const auto found = peers.find(name);
                      if (found != peers.end()) *examination.add_peers() = found->second;
                    });
  }

  std::vector<v1::Check> ToChecks() {
    absl::MutexLock lock(&mu_);
    std::vector<MeasuredLink> links;
    for (const auto& [name, asked] : asked_) {
      for (const ExaminationResult::Link& link : asked.result.links())
        links.push_back({name, link});
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
    bool takes_part = true;  // has done all steps so far in time
    ExaminationResult result;
    ClockBounds clock;
  };

  std::vector<v1::Check> ChecksOf(const v1::Worker& worker) const ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    const auto found = asked_.find(NameOf(worker));
    if (found == asked_.end()) {
      return {FailedCheck(kAnswer, "LOST: not heard from",
                          "see whether its machine and anneal-worker run, and what its log says")};
    }
    const Asked& asked = found->second;
    std::vector<v1::Check> checks;
    if (asked.takes_part) {
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
  int step_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<std::string, Asked> asked_ ABSL_GUARDED_BY(mu_);
};

void FleetExaminer::Want(const std::shared_ptr<Round>& round,
                         std::map<std::string, Examination> wanted) {
  parts_.inbox.Examine(std::move(wanted),
                       [round](const std::string& worker, const ExaminationResult& result) {
                         round->Hear(worker, result);
                       });
}

absl::Status FleetExaminer::CompareStorage(const std::shared_ptr<Round>& round,
                                           const std::function<bool()>& cancelled,
                                           std::vector<v1::Check>& checks) {
  FileSystem& files = parts_.storage.files();
  const std::string folder = parts_.storage.Absolute(round->folder());
  const std::string& token = round->token();
  const absl::StatusOr<std::unique_ptr<StorageMark>> own =
      StorageMark::Leave(files, folder, kOwnMark, token);
  const auto with_own = [](std::vector<std::string> marks, bool has_own) {
    if (has_own) marks.push_back(kOwnMark);
    return marks;
  };

  const std::vector<std::string> left = round->Marks(&ExaminationResult::has_left_mark);
  Want(round, round->NextStep(Examination::WORK_LOOK_FOR_MARKS, with_own(left, own.ok())));
  const MarksSeen seen = CheckMarks(files, folder, left, token, patience_.marks, parts_.clock);
  checks.push_back(seen.check);
  ANNEAL_RETURN_IF_ERROR(round->Await(patience_.answers, cancelled));

  Want(round, round->NextStep(Examination::WORK_CHANGE_MARKS));
  const bool changed_own = own.ok() && (*own)->Change().ok();
  const std::string mixture = FindMixture(files, folder, seen.names, token);
  ANNEAL_RETURN_IF_ERROR(round->Await(patience_.answers, cancelled));

  const std::vector<std::string> changed = round->Marks(&ExaminationResult::has_changed_mark);
  Want(round, round->NextStep(Examination::WORK_LOOK_FOR_CHANGES, with_own(changed, changed_own)));
  std::vector<std::string> expected;
  for (const std::string& name : seen.names) {
    if (std::count(changed.begin(), changed.end(), name) > 0) expected.push_back(name);
  }
  if (!expected.empty()) {
    checks.push_back(
        CheckChanges(files, folder, expected, token, mixture, patience_.marks, parts_.clock));
  }
  return round->Await(patience_.answers, cancelled);
}

absl::Status FleetExaminer::MeasureLinks(const std::shared_ptr<Round>& round, bool all_pairs,
                                         const std::function<bool()>& cancelled) {
  for (const std::vector<std::string>& names : round->Listening()) {
    for (const LinkRound& pairs :
         PlanLinkRounds(static_cast<int>(names.size()), all_pairs, parts_.random)) {
      Want(round, round->NextLinks(names, pairs));
      ANNEAL_RETURN_IF_ERROR(round->Await(patience_.links, cancelled));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::CheckFleetResponse> FleetExaminer::Examine(
    const v1::CheckFleetRequest& request, const std::function<bool()>& cancelled) {
  if (busy_.exchange(true))
    return absl::AbortedError("the fleet is being examined already: wait for that");
  const absl::Cleanup free = [this] { busy_ = false; };
  const auto round = std::make_shared<Round>(RandomHex(kTokenBytes, parts_.random),
                                             *parts_.roster.workers(), parts_.clock);
  FileSystem& files = parts_.storage.files();
  const std::string folder = parts_.storage.Absolute(round->folder());
  const absl::Cleanup put_away = [&] {
    // In this order: two who remove the same at once stand in each other's way.
    files.RemoveTree(folder).IgnoreError();
    parts_.inbox.Examine({}, nullptr);
  };

  Want(round, round->NextStep(Examination::WORK_LOOK_AT_MACHINE));
  std::vector<v1::Check> own = {
      CheckStorage(files, absl::StrCat(folder, "/of-", kOwnMark), parts_.clock)};
  ANNEAL_RETURN_IF_ERROR(round->Await(patience_.answers, cancelled));
  ANNEAL_RETURN_IF_ERROR(CompareStorage(round, cancelled, own));
  ANNEAL_RETURN_IF_ERROR(MeasureLinks(round, request.all_pairs(), cancelled));

  v1::CheckFleetResponse response;
  for (v1::Check& check : own) {
    check.set_machine("coordinator");
    *response.add_checks() = std::move(check);
  }
  for (v1::Check& check : round->ToChecks()) *response.add_checks() = std::move(check);
  return response;
}

}  // namespace anneal
