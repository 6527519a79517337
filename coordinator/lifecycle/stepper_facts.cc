#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/reasons.h"
#include "coordinator/lifecycle/checkpoints.h"
#include "coordinator/lifecycle/proto_time.h"
#include "coordinator/lifecycle/report_messages.h"
#include "coordinator/lifecycle/stepper.h"

namespace anneal {
namespace {

// More than any job ever has.
constexpr int64_t kMostLostNumber = int64_t{1} << 40;

// Cut at the front, and not inside a character.
std::string BoundedLogTail(absl::string_view tail) {
  if (tail.size() > kMaxLogTailBytes) tail.remove_prefix(tail.size() - kMaxLogTailBytes);
  while (!tail.empty() && (static_cast<unsigned char>(tail.front()) & 0xC0) == 0x80) {
    tail.remove_prefix(1);
  }
  return std::string(tail);
}

}  // namespace

absl::Status Stepper::On(const PrepareAssigned& event) {
  if (state() != v1::JOB_STATE_PENDING) return absl::OkStatus();
  internal::PrepareAttempt prepare;
  prepare.set_attempt(std::max(record_.prepare().attempt(), record_.lost_prepare_attempt()) + 1);
  prepare.set_worker(event.worker);
  *record_.mutable_prepare() = prepare;
  Enter(v1::JOB_STATE_PREPARING, "CHECKING_DATA",
        absl::StrCat("worker ", event.worker, " checks and tokenises the data"));
  return absl::OkStatus();
}

absl::Status Stepper::On(const SlotsAssigned& event) {
  const bool waits = state() == v1::JOB_STATE_QUEUED || state() == v1::JOB_STATE_RECOVERING;
  if (!waits || event.placements.empty()) return absl::OkStatus();
  job().set_generation(std::max(job().generation(), record_.lost_generation()) + 1);
  job().set_attempts(job().attempts() + 1);
  if (!job().has_start_time()) *job().mutable_start_time() = TimestampOf(now_);
  internal::TrainAttempt train;
  train.set_generation(job().generation());
  *train.mutable_start_time() = TimestampOf(now_);
  std::set<std::string> workers;
  for (const Placement& placement : event.placements) {
    internal::RankRecord& rank = *train.add_ranks();
    rank.set_rank(train.ranks_size() - 1);
    rank.set_worker(placement.worker);
    rank.set_slot_id(placement.slot_id);
    rank.set_device_uuid(placement.device_uuid);
    workers.insert(placement.worker);
  }
  const auto& checkpoints = ResumableCheckpoints(record_);
  train.set_first_step(checkpoints.empty() ? 0 : checkpoints[0].step());
  job().mutable_progress()->set_step(train.first_step());
  *record_.mutable_train() = train;
  record_.clear_keep_slots_until();
  Enter(v1::JOB_STATE_STARTING, "STARTING_TRAINERS",
        absl::StrCat("generation ", job().generation(), ": ", event.placements.size(),
                     event.placements.size() == 1 ? " rank on " : " ranks on ",
                     absl::StrJoin(workers, ", ")));
  return absl::OkStatus();
}

absl::Status Stepper::On(const WaitExplained& event) {
  if (state() != v1::JOB_STATE_PENDING && state() != v1::JOB_STATE_QUEUED &&
      state() != v1::JOB_STATE_RECOVERING) {
    return absl::OkStatus();
  }
  if (job().state_reason() == event.reason && job().state_message() == event.message)
    return absl::OkStatus();
  job().set_state_reason(event.reason);
  job().set_state_message(event.message);
  changed_ = true;
  return absl::OkStatus();
}

absl::Status Stepper::On(const TaskObserved& event) {
  if (internal::PrepareAttempt* prepare = FindPrepare(event.task)) {
    if (!prepare->observed()) {
      prepare->set_observed(true);
      changed_ = true;
    }
    return absl::OkStatus();
  }
  internal::RankRecord* rank = FindRank(event.task);
  if (rank == nullptr) return absl::OkStatus();
  if (!rank->observed()) {
    rank->set_observed(true);
    changed_ = true;
  }
  if (!HasTrainers(state()) || event.task.rank != 0) return absl::OkStatus();
  if (!event.rendezvous.empty() && record_.train().rendezvous().empty()) {
    record_.mutable_train()->set_rendezvous(event.rendezvous);
    changed_ = true;
  }
  if (event.phase == "train" || event.phase == "evaluate") AdvanceTo(v1::JOB_STATE_RUNNING);
  if (event.phase == "export" || event.phase == "check") AdvanceTo(v1::JOB_STATE_EXPORTING);
  return absl::OkStatus();
}

absl::Status Stepper::On(const TaskReported& event) {
  if (internal::PrepareAttempt* prepare = FindPrepare(event.task)) {
    if (event.sequence <= prepare->applied_report()) return absl::OkStatus();
    prepare->set_applied_report(event.sequence);
    changed_ = true;
    if (state() == v1::JOB_STATE_PREPARING) ApplyPrepareReport(event.report);
  } else if (internal::RankRecord* rank = FindRank(event.task)) {
    if (event.sequence <= rank->applied_report()) return absl::OkStatus();
    rank->set_applied_report(event.sequence);
    changed_ = true;
    if (HasTrainers(state()) && event.task.rank == 0) ApplyTrainReport(event.report);
  }
  return absl::OkStatus();
}

void Stepper::AddIssue(const protocol::IssueReport& report) {
  const bool warning = report.severity == "WARNING";
  *AddEvent(warning ? v1::JobEvent::LEVEL_WARNING : v1::JobEvent::LEVEL_INFO, report.message)
       .mutable_issue() = IssueFrom(report);
}

void Stepper::ApplyPrepareReport(const protocol::Report& report) {
  if (report.issue.has_value()) AddIssue(*report.issue);
  if (!report.prepared.has_value()) return;
  const protocol::PreparedReport& prepared = *report.prepared;
  *job().mutable_data() = DataSummaryFrom(prepared);
  record_.mutable_prepare()->set_ended(true);
  if (prepared.error_count > 0) {
    std::string message = absl::StrCat(
        prepared.error_count, prepared.error_count == 1 ? " error" : " errors", " in the data");
    if (!prepared.issues.empty()) {
      const protocol::IssueReport& first = prepared.issues.front();
      absl::StrAppend(&message, "; the first: ", first.file,
                      first.line > 0 ? absl::StrCat(" line ", first.line) : "",
                      first.field.empty() ? "" : absl::StrCat(", field ", first.field), ": ",
                      first.message);
    }
    Fail(google::rpc::INVALID_ARGUMENT, "BAD_DATA", message, "", std::nullopt);
    return;
  }
  record_.mutable_prepared()->set_train_data(prepared.train_data);
  record_.mutable_prepared()->set_validation_data(prepared.validation_data);
  record_.mutable_prepared()->set_data_report(prepared.data_report);
  if (!record_.hold_after_validation()) {
    EnterQueue();
    return;
  }
  Enter(v1::JOB_STATE_VALIDATED, "HELD",
        absl::StrCat(prepared.train_rows, " rows, ", prepared.train_tokens, " tokens, ",
                     prepared.warning_count, " warnings; resume the job to start it"));
}

void Stepper::ApplyTrainReport(const protocol::Report& report) {
  if (report.issue.has_value()) AddIssue(*report.issue);
  if (report.checkpoint.has_value()) CommitCheckpoint(*report.checkpoint);
  if (report.checkpoint_failed.has_value()) {
    AddEvent(v1::JobEvent::LEVEL_WARNING,
             absl::StrCat("no checkpoint after step ", report.checkpoint_failed->step,
                          "; the one before is kept: ", report.checkpoint_failed->why));
  }
  if (report.resumed.has_value()) Resumed(*report.resumed);
  if (report.evaluation.has_value()) {
    AdvanceTo(v1::JOB_STATE_RUNNING);
    const protocol::EvaluationReport& evaluation = *report.evaluation;
    *AddEvent(v1::JobEvent::LEVEL_INFO,
              absl::StrCat("validation loss ", evaluation.loss, " after step ", evaluation.step))
         .mutable_evaluation() = EvaluationFrom(evaluation);
  }
  if (report.result.has_value()) {
    AdvanceTo(v1::JOB_STATE_EXPORTING);
    *job().mutable_result() = ResultFrom(*report.result);
    job().set_output_model(absl::StrCat(job().name(), "/artifacts/", report.result->primary));
    Enter(v1::JOB_STATE_SUCCEEDED, "DONE",
          absl::StrCat("the ", report.result->primary, " is published"));
    publishes_output_ = true;
  }
}

absl::Status Stepper::On(const OutputLost& event) {
  internal::RankRecord* rank = FindRank(event.task);
  if (rank == nullptr || event.sequence <= rank->applied_report()) return absl::OkStatus();
  rank->set_applied_report(event.sequence);
  changed_ = true;
  if (!HasTrainers(state())) return absl::OkStatus();
  internal::TaskFailure failure;
  failure.set_rank(event.task.rank);
  failure.set_worker(rank->worker());
  failure.set_code(google::rpc::UNAVAILABLE);
  failure.set_reason("OUTPUT_LOST");
  failure.set_message(event.message);
  AttemptFailed(failure);
  return absl::OkStatus();
}

absl::Status Stepper::On(const TaskEnded& event) {
  if (!MarkEnded(event.task)) return absl::OkStatus();
  if (state() == v1::JOB_STATE_PREPARING && event.task.kind == TaskKey::Kind::kPrepare) {
    PrepareEnded(event);
  } else if (HasTrainers(state()) && event.task.kind == TaskKey::Kind::kTrain) {
    RankEnded(event);
  }
  LeaveIfNothingRuns();
  return absl::OkStatus();
}

void Stepper::PrepareEnded(const TaskEnded& event) {
  internal::TaskFailure failure;
  failure.set_code(event.code);
  failure.set_reason(event.reason);
  failure.set_signal(event.signal);
  if (BlameFor(failure) == Blame::kInfrastructure &&
      record_.prepare().attempt() - record_.lost_prepare_attempt() < kMaxPrepareAttempts) {
    Enter(v1::JOB_STATE_PENDING, "PREPARE_LOST",
          absl::StrCat("prepare on worker ", record_.prepare().worker(), " ended (", event.cause,
                       "); it starts again"));
    return;
  }
  job().set_log_tail(BoundedLogTail(event.log_tail));
  FailPrepare(event.code, event.reason, event.cause,
              event.cause.empty() && event.message.empty() ? "it left no result" : event.message);
}

void Stepper::RankEnded(const TaskEnded& event) {
  internal::RankRecord& rank = *record_.mutable_train()->mutable_ranks(event.task.rank);
  rank.set_paused(event.reason == kPaused);
  // A worker that drains tells its trainers to pause before we can.
  if (rank.paused() && state() == v1::JOB_STATE_STARTING)
    return EnterQueue("MOVED", "its worker drains");
  if (rank.paused() && state() == v1::JOB_STATE_RUNNING) {
    BeginStop(v1::JOB_STATE_PREEMPTING, internal::STOP_REASON_DRAIN, "MOVED",
              absl::StrCat("worker ", rank.worker(), " drains: goes on elsewhere"));
  }
  if (rank.paused() && record_.stop_reason() != internal::STOP_REASON_UNSPECIFIED) return;
  // Ranks other than 0 end well while rank 0 still writes the result.
  if (event.cause.empty() && event.task.rank != 0) return;
  internal::TaskFailure failure;
  failure.set_rank(event.task.rank);
  failure.set_worker(rank.worker());
  failure.set_code(event.code == 0 ? google::rpc::INTERNAL : event.code);
  failure.set_reason(event.reason.empty() ? "TRAINER_DIED" : event.reason);
  failure.set_message(event.cause.empty() && event.message.empty() ? "it left no result"
                                                                   : event.message);
  failure.set_cause(event.cause);
  failure.set_log_tail(BoundedLogTail(event.log_tail));
  failure.set_signal(event.signal);
  if (event.reason != kCollectiveFailed || OpenTasks(record_).empty()) {
    AttemptFailed(record_.train().has_suspect() && event.reason == kCollectiveFailed
                      ? record_.train().suspect()
                      : failure);
  } else if (!record_.train().has_suspect()) {
    *record_.mutable_train()->mutable_suspect() = failure;
    *record_.mutable_train()->mutable_blame_deadline() = TimestampOf(now_ + kBlameWindow);
  }
}

absl::Status Stepper::On(const TaskLost& event) {
  if (!MarkEnded(event.task)) return absl::OkStatus();
  if (internal::RankRecord* rank = FindRank(event.task)) rank->set_lost(true);
  if (state() == v1::JOB_STATE_PREPARING && event.task.kind == TaskKey::Kind::kPrepare) {
    if (record_.prepare().attempt() - record_.lost_prepare_attempt() >= kMaxPrepareAttempts) {
      FailPrepare(
          google::rpc::UNAVAILABLE, "WORKER_LOST", "",
          absl::StrCat(event.message, "; given up after ", kMaxPrepareAttempts, " attempts"));
    } else {
      Enter(v1::JOB_STATE_PENDING, "PREPARE_LOST",
            absl::StrCat(event.message, "; prepare starts again elsewhere"));
    }
  } else if (HasTrainers(state()) && event.task.kind == TaskKey::Kind::kTrain) {
    internal::TaskFailure failure;
    failure.set_rank(event.task.rank);
    failure.set_worker(record_.train().ranks(event.task.rank).worker());
    failure.set_code(google::rpc::UNAVAILABLE);
    failure.set_reason("WORKER_LOST");
    failure.set_message(event.message);
    AttemptFailed(failure);
  }
  LeaveIfNothingRuns();
  return absl::OkStatus();
}

absl::Status Stepper::On(const TaskHung& event) {
  const internal::RankRecord* rank = FindRank(event.task);
  if (!HasTrainers(state()) || rank == nullptr || rank->ended()) return absl::OkStatus();
  internal::TaskFailure failure;
  failure.set_rank(event.task.rank);
  failure.set_worker(rank->worker());
  failure.set_code(google::rpc::DEADLINE_EXCEEDED);
  failure.set_reason("HUNG");
  failure.set_message(event.message);
  AttemptFailed(failure);
  return absl::OkStatus();
}

absl::Status Stepper::On(const TaskReleased& event) {
  MarkEnded(event.task);
  LeaveIfNothingRuns();
  return absl::OkStatus();
}

absl::Status Stepper::On(const LostTaskFound& event) {
  const int64_t number = event.task.generation;
  // It came from outside, and one more must still be a number.
  if (number > kMostLostNumber) return absl::OkStatus();
  const std::string restored = "was given after the backup from which the catalog was restored";
  if (event.task.kind == TaskKey::Kind::kPrepare) {
    if (number <= std::max(record_.prepare().attempt(), record_.lost_prepare_attempt()))
      return absl::OkStatus();
    record_.set_lost_prepare_attempt(number);
    AddEvent(v1::JobEvent::LEVEL_WARNING,
             absl::StrCat("prepare attempt ", number, " ", restored, ", and does not count"));
    if (state() == v1::JOB_STATE_PREPARING)
      Enter(v1::JOB_STATE_PENDING, "RESTORED", "prepare starts again");
    return absl::OkStatus();
  }
  if (number <= std::max(job().generation(), record_.lost_generation())) return absl::OkStatus();
  record_.set_lost_generation(number);
  const std::string message =
      absl::StrCat("generation ", number, " ", restored, ", and does not count");
  AddEvent(v1::JobEvent::LEVEL_WARNING, message);
  // The generation that the catalog knows is long over.
  if (state() == v1::JOB_STATE_PAUSING) {
    Pause(message);
  } else if (HasTrainers(state())) {
    GiveUpAttempt("RESTORED", message);
  }
  return absl::OkStatus();
}

}  // namespace anneal
