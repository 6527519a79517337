#include "coordinator/lifecycle/step.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "coordinator/lifecycle/report_messages.h"
#include "coordinator/lifecycle/states.h"
#include "google/protobuf/util/time_util.h"
#include "google/rpc/code.pb.h"
#include "google/rpc/error_details.pb.h"

namespace anneal {
namespace {

constexpr int32_t kMaxSlots = 4096;
// A trainer that ends so has most often lost a peer; the peer's own end is the cause to show.
constexpr absl::string_view kCollectiveFailed = "COLLECTIVE_FAILED";

google::protobuf::Timestamp TimestampOf(absl::Time time) {
  return google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(absl::ToUnixMicros(time));
}
absl::Time TimeOf(const google::protobuf::Timestamp& timestamp) {
  return absl::FromUnixMicros(google::protobuf::util::TimeUtil::TimestampToMicroseconds(timestamp));
}

bool TrainsIn(v1::JobState state) {
  return state == v1::JOB_STATE_STARTING || state == v1::JOB_STATE_RUNNING || state == v1::JOB_STATE_EXPORTING;
}

std::string AcceleratorName(v1::ResourceSpec::Accelerator accelerator) {
  return accelerator == v1::ResourceSpec::ACCELERATOR_GPU ? "GPU" : "CPU";
}

// Log ends may be cut inside a character; protobuf strings must be UTF-8.
std::string BoundedLogTail(absl::string_view tail) {
  if (tail.size() > kMaxLogTailBytes) tail.remove_prefix(tail.size() - kMaxLogTailBytes);
  while (!tail.empty() && (static_cast<unsigned char>(tail.front()) & 0xC0) == 0x80) tail.remove_prefix(1);
  return std::string(tail);
}

// One step: holds the copy of the record that becomes the new one.
class Stepper {
 public:
  Stepper(internal::JobRecord record, absl::Time now) : record_(std::move(record)), now_(now) {}

  absl::Status Apply(const LifecycleEvent& event) {
    const bool request = std::holds_alternative<CancelRequested>(event) || std::holds_alternative<ResumeRequested>(event) ||
                         std::holds_alternative<FinishRequested>(event);
    // Terminal states never change; a request must hear why.
    if (IsTerminal(state()) && !request) return absl::OkStatus();
    return std::visit([this](const auto& e) { return On(e); }, event);
  }

  // The first step of all: there is no state to come from.
  void Create() {
    *job().mutable_create_time() = TimestampOf(now_);
    Enter(v1::JOB_STATE_PENDING, "WAITING_FOR_PREPARE_SLOT", "waits for a prepare slot");
  }

  StepResult Finish() {
    if (changed_) {
      record_.set_version(record_.version() + 1);
      job().set_etag(absl::StrCat(record_.version()));
    }
    return {std::move(record_), std::move(events_), changed_};
  }

 private:
  v1::Job& job() { return *record_.mutable_job(); }
  v1::JobState state() const { return record_.job().state(); }

  v1::JobEvent& AddEvent(v1::JobEvent::Level level, absl::string_view message) {
    changed_ = true;
    record_.set_last_event_sequence(record_.last_event_sequence() + 1);
    v1::JobEvent& event = events_.emplace_back();
    event.set_sequence(record_.last_event_sequence());
    *event.mutable_time() = TimestampOf(now_);
    event.set_level(level);
    event.set_message(std::string(message));
    event.set_generation(record_.job().generation());
    return event;
  }

  // The one place that writes a state.
  void Enter(v1::JobState to, absl::string_view reason, absl::string_view message) {
    const v1::JobState from = state();
    ANNEAL_CHECK(from == v1::JOB_STATE_UNSPECIFIED || IsLegalTransition(from, to));
    job().set_state(to);
    job().set_state_reason(std::string(reason));
    job().set_state_message(std::string(message));
    *record_.mutable_state_time() = TimestampOf(now_);
    if (IsTerminal(to)) {
      *job().mutable_finish_time() = TimestampOf(now_);
      job().clear_estimated_finish_time();
      EndAttempt();
    }
    v1::JobEvent& event =
        AddEvent(to == v1::JOB_STATE_FAILED ? v1::JobEvent::LEVEL_ERROR : v1::JobEvent::LEVEL_INFO, message);
    event.mutable_state_change()->set_from(from);
    event.mutable_state_change()->set_to(to);
    event.mutable_state_change()->set_reason(std::string(reason));
  }

  void EndAttempt() {
    if (!record_.has_train()) return;
    const double seconds = absl::ToDoubleSeconds(now_ - TimeOf(record_.train().start_time()));
    v1::JobUsage& usage = *job().mutable_usage();
    usage.set_slot_seconds(usage.slot_seconds() + std::max(0.0, seconds) * record_.train().ranks_size());
  }

  void EnterQueue() {
    *record_.mutable_queue_time() = TimestampOf(now_);
    const v1::ResourceSpec& resources = job().resolved().spec().resources();
    Enter(v1::JOB_STATE_QUEUED, "WAITING_FOR_SLOTS",
          absl::StrCat("needs ", resources.slots(), " ", AcceleratorName(resources.accelerator()),
                       resources.slots() == 1 ? " slot" : " slots"));
  }

  // Along STARTING, RUNNING, EXPORTING up to `to`; each state shows even if the trainers were quicker than their reports.
  void AdvanceTo(v1::JobState to) {
    if (state() == v1::JOB_STATE_STARTING && to != v1::JOB_STATE_STARTING) {
      Enter(v1::JOB_STATE_RUNNING, "TRAINING", "all ranks have met and loaded the model");
    }
    if (state() == v1::JOB_STATE_RUNNING && to == v1::JOB_STATE_EXPORTING) {
      Enter(v1::JOB_STATE_EXPORTING, "WRITING_RESULT", "the result is written and checked");
    }
  }

  void Fail(google::rpc::Code code, absl::string_view reason, absl::string_view message, absl::string_view worker,
            std::optional<int32_t> rank) {
    google::rpc::Status& error = *job().mutable_error();
    error.set_code(code);
    error.set_message(std::string(message));
    google::rpc::ErrorInfo info;
    info.set_reason(std::string(reason));
    info.set_domain("anneal");
    if (!worker.empty()) (*info.mutable_metadata())["worker"] = std::string(worker);
    if (rank.has_value()) (*info.mutable_metadata())["rank"] = absl::StrCat(*rank);
    error.add_details()->PackFrom(info);
    Enter(v1::JOB_STATE_FAILED, reason, message);
  }

  void FailByRank(const internal::TaskFailure& failure) {
    job().set_log_tail(failure.log_tail());
    std::string message = absl::StrCat("rank ", failure.rank(), " on worker ", failure.worker(), " ended");
    if (!failure.cause().empty()) absl::StrAppend(&message, " (", failure.cause(), ")");
    if (!failure.message().empty()) absl::StrAppend(&message, ": ", failure.message());
    v1::JobEvent& event = AddEvent(v1::JobEvent::LEVEL_ERROR, message);
    event.mutable_attempt_end()->set_generation(record_.train().generation());
    event.mutable_attempt_end()->set_rank(failure.rank());
    event.mutable_attempt_end()->set_worker(failure.worker());
    event.mutable_attempt_end()->set_cause(failure.cause());
    Fail(static_cast<google::rpc::Code>(failure.code()), failure.reason(), message, failure.worker(), failure.rank());
  }

  void FailPrepare(int32_t code, absl::string_view reason, absl::string_view cause, absl::string_view message) {
    std::string text = absl::StrCat("prepare on worker ", record_.prepare().worker(), " ended");
    if (!cause.empty()) absl::StrAppend(&text, " (", cause, ")");
    if (!message.empty()) absl::StrAppend(&text, ": ", message);
    Fail(code == 0 ? google::rpc::INTERNAL : static_cast<google::rpc::Code>(code), reason.empty() ? "PREPARE_DIED" : reason,
         text, record_.prepare().worker(), std::nullopt);
  }

  // The prepare attempt that `task` names, or null if it is not the present one.
  internal::PrepareAttempt* FindPrepare(const TaskKey& task) {
    if (task.kind != TaskKey::Kind::kPrepare || record_.prepare().attempt() != task.generation || task.generation == 0) {
      return nullptr;
    }
    return record_.mutable_prepare();
  }
  internal::RankRecord* FindRank(const TaskKey& task) {
    if (task.kind != TaskKey::Kind::kTrain || !record_.has_train() || record_.train().generation() != task.generation ||
        task.rank < 0 || task.rank >= record_.train().ranks_size()) {
      return nullptr;
    }
    return record_.mutable_train()->mutable_ranks(task.rank);
  }

  // Marks the task as over. False if it is not one of the job's present tasks, or was over already.
  bool MarkEnded(const TaskKey& task) {
    bool first = false;
    if (internal::PrepareAttempt* prepare = FindPrepare(task)) {
      first = !prepare->ended();
      prepare->set_ended(true);
    } else if (internal::RankRecord* rank = FindRank(task)) {
      first = !rank->ended();
      rank->set_ended(true);
    }
    changed_ |= first;
    return first;
  }

  void CancelIfNothingRuns() {
    if (state() == v1::JOB_STATE_CANCELLING && OpenTasks(record_).empty()) {
      Enter(v1::JOB_STATE_CANCELLED, "CANCELLED", "cancelled by request; nothing is kept");
    }
  }

  absl::Status On(const PrepareAssigned& event) {
    if (state() != v1::JOB_STATE_PENDING) return absl::OkStatus();
    internal::PrepareAttempt prepare;
    prepare.set_attempt(record_.prepare().attempt() + 1);
    prepare.set_worker(event.worker);
    *record_.mutable_prepare() = prepare;
    Enter(v1::JOB_STATE_PREPARING, "CHECKING_DATA", absl::StrCat("worker ", event.worker, " checks and tokenises the data"));
    return absl::OkStatus();
  }

  absl::Status On(const SlotsAssigned& event) {
    if (state() != v1::JOB_STATE_QUEUED || event.placements.empty()) return absl::OkStatus();
    job().set_generation(job().generation() + 1);
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
    *record_.mutable_train() = train;
    Enter(v1::JOB_STATE_STARTING, "STARTING_TRAINERS",
          absl::StrCat("generation ", job().generation(), ": ", event.placements.size(),
                       event.placements.size() == 1 ? " rank on " : " ranks on ", absl::StrJoin(workers, ", ")));
    return absl::OkStatus();
  }

  absl::Status On(const WaitExplained& event) {
    if (state() != v1::JOB_STATE_PENDING && state() != v1::JOB_STATE_QUEUED) return absl::OkStatus();
    if (job().state_reason() == event.reason && job().state_message() == event.message) return absl::OkStatus();
    job().set_state_reason(event.reason);
    job().set_state_message(event.message);
    changed_ = true;
    return absl::OkStatus();
  }

  absl::Status On(const TaskObserved& event) {
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
    if (!TrainsIn(state()) || event.task.rank != 0) return absl::OkStatus();
    if (!event.rendezvous.empty() && record_.train().rendezvous().empty()) {
      record_.mutable_train()->set_rendezvous(event.rendezvous);
      changed_ = true;
    }
    if (event.phase == "train" || event.phase == "evaluate") AdvanceTo(v1::JOB_STATE_RUNNING);
    if (event.phase == "export" || event.phase == "check") AdvanceTo(v1::JOB_STATE_EXPORTING);
    return absl::OkStatus();
  }

  absl::Status On(const TaskReported& event) {
    if (internal::PrepareAttempt* prepare = FindPrepare(event.task)) {
      if (event.sequence <= prepare->applied_report()) return absl::OkStatus();
      prepare->set_applied_report(event.sequence);
      changed_ = true;
      if (state() == v1::JOB_STATE_PREPARING) ApplyPrepareReport(event.report);
    } else if (internal::RankRecord* rank = FindRank(event.task)) {
      if (event.sequence <= rank->applied_report()) return absl::OkStatus();
      rank->set_applied_report(event.sequence);
      changed_ = true;
      if (TrainsIn(state()) && event.task.rank == 0) ApplyTrainReport(event.report);
    }
    return absl::OkStatus();
  }

  void AddIssue(const protocol::IssueReport& report) {
    const bool warning = report.severity == "WARNING";
    *AddEvent(warning ? v1::JobEvent::LEVEL_WARNING : v1::JobEvent::LEVEL_INFO, report.message).mutable_issue() =
        IssueFrom(report);
  }

  void ApplyPrepareReport(const protocol::Report& report) {
    if (report.issue.has_value()) AddIssue(*report.issue);
    if (!report.prepared.has_value()) return;
    const protocol::PreparedReport& prepared = *report.prepared;
    *job().mutable_data() = DataSummaryFrom(prepared);
    record_.mutable_prepare()->set_ended(true);
    if (prepared.error_count > 0) {
      std::string message = absl::StrCat(prepared.error_count, prepared.error_count == 1 ? " error" : " errors", " in the data");
      if (!prepared.issues.empty()) {
        const protocol::IssueReport& first = prepared.issues.front();
        absl::StrAppend(&message, "; the first: ", first.file, first.line > 0 ? absl::StrCat(" line ", first.line) : "",
                        first.field.empty() ? "" : absl::StrCat(", field ", first.field), ": ", first.message);
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
          absl::StrCat(prepared.train_rows, " rows, ", prepared.train_tokens, " tokens, ", prepared.warning_count,
                       " warnings; resume the job to start it"));
  }

  void ApplyTrainReport(const protocol::Report& report) {
    if (report.issue.has_value()) AddIssue(*report.issue);
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
      Enter(v1::JOB_STATE_SUCCEEDED, "DONE", absl::StrCat("the ", report.result->primary, " is published"));
    }
  }

  absl::Status On(const TaskEnded& event) {
    if (!MarkEnded(event.task)) return absl::OkStatus();
    if (state() == v1::JOB_STATE_PREPARING && event.task.kind == TaskKey::Kind::kPrepare) {
      job().set_log_tail(BoundedLogTail(event.log_tail));
      FailPrepare(event.code, event.reason, event.cause,
                  event.cause.empty() && event.message.empty() ? "it left no result" : event.message);
    } else if (TrainsIn(state()) && event.task.kind == TaskKey::Kind::kTrain) {
      RankEnded(event);
    }
    CancelIfNothingRuns();
    return absl::OkStatus();
  }

  void RankEnded(const TaskEnded& event) {
    // Ranks other than 0 end well while rank 0 still writes the result.
    if (event.cause.empty() && event.task.rank != 0) return;
    internal::TaskFailure failure;
    failure.set_rank(event.task.rank);
    failure.set_worker(record_.train().ranks(event.task.rank).worker());
    failure.set_code(event.code == 0 ? google::rpc::INTERNAL : event.code);
    failure.set_reason(event.reason.empty() ? "TRAINER_DIED" : event.reason);
    failure.set_message(event.cause.empty() && event.message.empty() ? "it left no result" : event.message);
    failure.set_cause(event.cause);
    failure.set_log_tail(BoundedLogTail(event.log_tail));
    if (event.reason != kCollectiveFailed || OpenTasks(record_).empty()) {
      FailByRank(record_.train().has_suspect() && event.reason == kCollectiveFailed ? record_.train().suspect() : failure);
    } else if (!record_.train().has_suspect()) {
      *record_.mutable_train()->mutable_suspect() = failure;
      *record_.mutable_train()->mutable_blame_deadline() = TimestampOf(now_ + kBlameWindow);
    }
  }

  absl::Status On(const TaskLost& event) {
    if (!MarkEnded(event.task)) return absl::OkStatus();
    if (state() == v1::JOB_STATE_PREPARING && event.task.kind == TaskKey::Kind::kPrepare) {
      if (record_.prepare().attempt() >= kMaxPrepareAttempts) {
        FailPrepare(google::rpc::UNAVAILABLE, "WORKER_LOST", "",
                    absl::StrCat(event.message, "; given up after ", kMaxPrepareAttempts, " attempts"));
      } else {
        Enter(v1::JOB_STATE_PENDING, "PREPARE_LOST", absl::StrCat(event.message, "; prepare starts again elsewhere"));
      }
    } else if (TrainsIn(state()) && event.task.kind == TaskKey::Kind::kTrain) {
      internal::TaskFailure failure;
      failure.set_rank(event.task.rank);
      failure.set_worker(record_.train().ranks(event.task.rank).worker());
      failure.set_code(google::rpc::UNAVAILABLE);
      failure.set_reason("WORKER_LOST");
      failure.set_message(event.message);
      FailByRank(failure);
    }
    CancelIfNothingRuns();
    return absl::OkStatus();
  }

  absl::Status On(const TaskReleased& event) {
    MarkEnded(event.task);
    CancelIfNothingRuns();
    return absl::OkStatus();
  }

  absl::Status On(const Tick&) {
    if (TrainsIn(state()) && record_.train().has_suspect() && now_ >= TimeOf(record_.train().blame_deadline())) {
      FailByRank(record_.train().suspect());
    }
    return absl::OkStatus();
  }

  bool IsRepetition(const std::string& request_id) const {
    return !request_id.empty() && request_id == record_.last_action_request_id();
  }
  absl::Status Refuse(absl::string_view action, absl::string_view allowed) const {
    return WithReason(absl::FailedPreconditionError(absl::StrCat(record_.job().name(), " is ", StateName(state()), ": ", action,
                                                                 " is possible only for ", allowed)),
                      "WRONG_STATE");
  }
  void Accept(const std::string& request_id) {
    changed_ = true;
    record_.set_last_action_request_id(request_id);
  }

  absl::Status On(const CancelRequested& event) {
    if (IsRepetition(event.request_id) || state() == v1::JOB_STATE_CANCELLING || state() == v1::JOB_STATE_CANCELLED) {
      return absl::OkStatus();
    }
    if (IsTerminal(state())) return Refuse("cancelling", "a job that has not ended");
    Accept(event.request_id);
    Enter(v1::JOB_STATE_CANCELLING, "CANCEL_REQUESTED", "its processes are stopped");
    CancelIfNothingRuns();
    return absl::OkStatus();
  }

  absl::Status On(const ResumeRequested& event) {
    if (IsRepetition(event.request_id)) return absl::OkStatus();
    if (state() != v1::JOB_STATE_VALIDATED && state() != v1::JOB_STATE_PAUSED) {
      return Refuse("resuming", "a VALIDATED or PAUSED job");
    }
    if (event.slots.has_value()) {
      const int32_t shards = job().resolved().spec().training().logical_shards();
      if (*event.slots < 1 || *event.slots > kMaxSlots || (shards > 0 && shards % *event.slots != 0)) {
        return WithReason(absl::InvalidArgumentError(absl::StrCat("slots ", *event.slots, " must be a divisor of the job's ", shards,
                                                                  " logical shards")),
                          "BAD_SLOTS");
      }
      job().mutable_resolved()->mutable_spec()->mutable_resources()->set_slots(*event.slots);
      (*job().mutable_resolved()->mutable_origins())["resources.slots"] = "user";
    }
    Accept(event.request_id);
    EnterQueue();
    return absl::OkStatus();
  }

  absl::Status On(const FinishRequested& event) {
    if (IsRepetition(event.request_id) || state() == v1::JOB_STATE_EXPORTING) return absl::OkStatus();
    if (state() != v1::JOB_STATE_RUNNING) return Refuse("finishing", "a RUNNING job");
    if (record_.finish_requested()) return absl::OkStatus();
    Accept(event.request_id);
    record_.set_finish_requested(true);
    AddEvent(v1::JobEvent::LEVEL_INFO, "asked to stop after this step and keep the model");
    return absl::OkStatus();
  }

  internal::JobRecord record_;
  const absl::Time now_;
  std::vector<v1::JobEvent> events_;
  bool changed_ = false;
};

}  // namespace

absl::StatusOr<StepResult> Step(const internal::JobRecord& record, const LifecycleEvent& event, absl::Time now) {
  Stepper stepper(record, now);
  ANNEAL_RETURN_IF_ERROR(stepper.Apply(event));
  return stepper.Finish();
}

StepResult CreateJobRecord(internal::JobRecord record, absl::Time now) {
  Stepper stepper(std::move(record), now);
  stepper.Create();
  return stepper.Finish();
}

std::vector<TaskPlace> OpenTasks(const internal::JobRecord& record) {
  std::vector<TaskPlace> tasks;
  if (record.prepare().attempt() > 0 && !record.prepare().ended()) {
    tasks.push_back({{record.id(), TaskKey::Kind::kPrepare, record.prepare().attempt(), 0}, record.prepare().worker()});
  }
  for (const internal::RankRecord& rank : record.train().ranks()) {
    if (!rank.ended()) {
      tasks.push_back({{record.id(), TaskKey::Kind::kTrain, record.train().generation(), rank.rank()}, rank.worker()});
    }
  }
  return tasks;
}

std::vector<TaskPlace> DesiredTasks(const internal::JobRecord& record) {
  const v1::JobState state = record.job().state();
  std::vector<TaskPlace> tasks = OpenTasks(record);
  std::erase_if(tasks, [state](const TaskPlace& place) {
    return place.task.kind == TaskKey::Kind::kPrepare ? state != v1::JOB_STATE_PREPARING : !TrainsIn(state);
  });
  return tasks;
}

}  // namespace anneal
