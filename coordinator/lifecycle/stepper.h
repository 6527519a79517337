#pragma once
// The inside of Step(): private to this folder.

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "anneal/internal/catalog.pb.h"
#include "anneal/v1/job.pb.h"
#include "common/protocol/messages.h"
#include "coordinator/lifecycle/blame.h"
#include "coordinator/lifecycle/lifecycle_event.h"
#include "coordinator/lifecycle/slot_account.h"
#include "coordinator/lifecycle/states.h"
#include "coordinator/lifecycle/step.h"
#include "google/rpc/code.pb.h"

namespace anneal {

// One step: holds the copy of the record that becomes the new one. Guarded by its caller.
class Stepper {
 public:
  Stepper(internal::JobRecord record, absl::Time now) : record_(std::move(record)), now_(now) {}

  absl::Status Apply(const LifecycleEvent& event);
  // The first step of all: there is no state to come from.
  void Create();
  StepResult Finish();

 private:
  v1::Job& job() { return *record_.mutable_job(); }
  v1::JobState state() const { return record_.job().state(); }

  // What all events share (stepper.cc).
  v1::JobEvent& AddEvent(v1::JobEvent::Level level, absl::string_view message);
  // The one place that writes a state.
  void Enter(v1::JobState to, absl::string_view reason, absl::string_view message);
  // Counts what the attempt has used.
  void EndAttempt();
  void EnterQueue(absl::string_view reason = "WAITING_FOR_SLOTS", absl::string_view message = "");
  // Along STARTING, RUNNING, EXPORTING up to `to`; each state shows even if the trainers were
  // quicker than their reports.
  void AdvanceTo(v1::JobState to);
  // `cause`: the reason of the last failure, where `reason` sums up several.
  void Fail(google::rpc::Code code, absl::string_view reason, absl::string_view message,
            absl::string_view worker, std::optional<int32_t> rank, absl::string_view cause = "");
  void FailPrepare(int32_t code, absl::string_view reason, absl::string_view cause,
                   absl::string_view message);
  // The prepare attempt that `task` names, or null if it is not the present one.
  internal::PrepareAttempt* FindPrepare(const TaskKey& task);
  internal::RankRecord* FindRank(const TaskKey& task);
  // Marks the task as over. False if it is not one of the job's present tasks, or was over already.
  bool MarkEnded(const TaskKey& task);
  // CANCELLING, PAUSING and PREEMPTING end with the last of the job's processes.
  void LeaveIfNothingRuns();

  // Facts (stepper_facts.cc).
  absl::Status On(const PrepareAssigned& event);
  absl::Status On(const SlotsAssigned& event);
  absl::Status On(const WaitExplained& event);
  absl::Status On(const TaskObserved& event);
  absl::Status On(const TaskReported& event);
  absl::Status On(const OutputLost& event);
  void AddIssue(const protocol::IssueReport& report);
  void ApplyPrepareReport(const protocol::Report& report);
  void ApplyTrainReport(const protocol::Report& report);
  absl::Status On(const TaskEnded& event);
  void PrepareEnded(const TaskEnded& event);
  void RankEnded(const TaskEnded& event);
  absl::Status On(const TaskLost& event);
  absl::Status On(const TaskHung& event);
  absl::Status On(const TaskReleased& event);
  absl::Status On(const LostTaskFound& event);

  // Checkpoints (stepper_checkpoints.cc).
  void CommitCheckpoint(const protocol::CheckpointReport& report);
  void Resumed(const protocol::ResumedReport& report);
  absl::Status On(const MoveRequired& event);
  void BeginStop(v1::JobState to, internal::StopReason why, absl::string_view reason,
                 absl::string_view message);
  void Pause(absl::string_view message);
  void CheckLimits();

  // Failures (stepper_failures.cc).
  void AttemptFailed(const internal::TaskFailure& failure);
  // From a state with trainers, but not PAUSING, to one where the job waits for the next attempt.
  void GiveUpAttempt(absl::string_view reason, absl::string_view message);
  // Counts the failure. If there is no further attempt: what to add to its message about that.
  std::optional<std::string> SpendRetry(Blame blame, bool made_progress);
  void DescribeAttemptEnd(const internal::TaskFailure& failure, Blame blame,
                          absl::string_view message, bool goes_on);
  absl::Status On(const Tick&);

  // Requests (stepper_requests.cc).
  bool IsRepetition(const std::string& request_id) const;
  absl::Status Refuse(absl::string_view action, absl::string_view allowed) const;
  void Accept(const std::string& request_id);
  absl::Status On(const CancelRequested& event);
  absl::Status On(const PauseRequested& event);
  absl::Status ChangeSlots(int32_t slots);
  absl::Status On(const ResumeRequested& event);
  absl::Status On(const FinishRequested& event);
  absl::Status On(const StacksRequested& event);

  internal::JobRecord record_;
  const absl::Time now_;
  std::vector<v1::JobEvent> events_;
  SlotTimeByDay slot_time_;
  internal::SlotAccount account_before_;  // for an event that changes nothing
  bool changed_ = false;
  bool publishes_output_ = false;
};

}  // namespace anneal
