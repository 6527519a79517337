#include "coordinator/lifecycle/stepper.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "coordinator/lifecycle/proto_time.h"
#include "coordinator/lifecycle/states.h"
#include "google/rpc/error_details.pb.h"

namespace anneal {
namespace {

std::string AcceleratorName(v1::ResourceSpec::Accelerator accelerator) {
  return accelerator == v1::ResourceSpec::ACCELERATOR_GPU ? "GPU" : "CPU";
}

}  // namespace

absl::Status Stepper::Apply(const LifecycleEvent& event) {
  const bool request = std::holds_alternative<CancelRequested>(event) ||
                       std::holds_alternative<PauseRequested>(event) ||
                       std::holds_alternative<ResumeRequested>(event) ||
                       std::holds_alternative<FinishRequested>(event) ||
                       std::holds_alternative<StacksRequested>(event);
  account_before_ = record_.slot_account();
  // Terminal states never change; a request must hear why.
  if (IsTerminal(state()) && !request) return absl::OkStatus();
  CountSlotTime(now_, &record_, &slot_time_);
  return std::visit([this](const auto& e) { return On(e); }, event);
}

void Stepper::Create() {
  *job().mutable_create_time() = TimestampOf(now_);
  OpenSlotAccount(now_, &record_, &slot_time_);
  Enter(v1::JOB_STATE_PENDING, "WAITING_FOR_PREPARE_SLOT", "waits for a prepare slot");
}

StepResult Stepper::Finish() {
  if (changed_) {
    record_.set_version(record_.version() + 1);
    job().set_etag(absl::StrCat(record_.version()));
    ShowSlotTime(now_, &record_);
  } else if (record_.has_slot_account()) {
    *record_.mutable_slot_account() = std::move(account_before_);
    slot_time_.clear();
  }
  return {std::move(record_), std::move(events_), std::move(slot_time_), changed_,
          publishes_output_};
}

v1::JobEvent& Stepper::AddEvent(v1::JobEvent::Level level, absl::string_view message) {
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

void Stepper::Enter(v1::JobState to, absl::string_view reason, absl::string_view message) {
  const v1::JobState from = state();
  ANNEAL_CHECK(from == v1::JOB_STATE_UNSPECIFIED || IsLegalTransition(from, to));
  if (HasTrainers(from) && !HasTrainers(to)) EndAttempt();
  if (to == v1::JOB_STATE_FAILED || to == v1::JOB_STATE_CANCELLING) {
    CountLost(&record_, &slot_time_);
  } else if (HasTrainers(from) && !HasTrainers(to) && !IsTerminal(to)) {
    CountAttemptEnd(&record_, &slot_time_);
  }
  if (to != v1::JOB_STATE_PAUSING && to != v1::JOB_STATE_PREEMPTING) record_.clear_stop_reason();
  job().set_state(to);
  job().set_state_reason(std::string(reason));
  job().set_state_message(std::string(message));
  *record_.mutable_state_time() = TimestampOf(now_);
  if (IsTerminal(to)) {
    *job().mutable_finish_time() = TimestampOf(now_);
    job().clear_estimated_finish_time();
  }
  v1::JobEvent& event = AddEvent(
      to == v1::JOB_STATE_FAILED ? v1::JobEvent::LEVEL_ERROR : v1::JobEvent::LEVEL_INFO, message);
  event.mutable_state_change()->set_from(from);
  event.mutable_state_change()->set_to(to);
  event.mutable_state_change()->set_reason(std::string(reason));
}

void Stepper::EndAttempt() {
  const double seconds =
      std::max(0.0, absl::ToDoubleSeconds(now_ - TimeOf(record_.train().start_time())));
  record_.set_train_seconds(record_.train_seconds() + seconds);
  internal::SlotAccount& account = *record_.mutable_slot_account();
  account.set_ended_attempts(account.ended_attempts() + seconds * record_.train().ranks_size());
}

void Stepper::EnterQueue(absl::string_view reason, absl::string_view message) {
  // A job that had to give its slots back keeps its place in the queue.
  if (!record_.has_queue_time() || state() == v1::JOB_STATE_PAUSED)
    *record_.mutable_queue_time() = TimestampOf(now_);
  if (!message.empty()) return Enter(v1::JOB_STATE_QUEUED, reason, message);
  const v1::ResourceSpec& resources = job().resolved().spec().resources();
  Enter(v1::JOB_STATE_QUEUED, reason,
        absl::StrCat("needs ", resources.slots(), " ", AcceleratorName(resources.accelerator()),
                     resources.slots() == 1 ? " slot" : " slots"));
}

void Stepper::AdvanceTo(v1::JobState to) {
  if (state() == v1::JOB_STATE_STARTING && to != v1::JOB_STATE_STARTING) {
    Enter(v1::JOB_STATE_RUNNING, "TRAINING", "all ranks have met and loaded the model");
  }
  const bool trains = state() == v1::JOB_STATE_RUNNING || state() == v1::JOB_STATE_PAUSING ||
                      state() == v1::JOB_STATE_PREEMPTING;
  if (trains && to == v1::JOB_STATE_EXPORTING) {
    Enter(v1::JOB_STATE_EXPORTING, "WRITING_RESULT", "the result is written and checked");
  }
}

void Stepper::Fail(google::rpc::Code code, absl::string_view reason, absl::string_view message,
                   absl::string_view worker, std::optional<int32_t> rank, absl::string_view cause) {
  google::rpc::Status& error = *job().mutable_error();
  error.set_code(code);
  error.set_message(std::string(message));
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(reason));
  info.set_domain("anneal");
  if (!worker.empty()) (*info.mutable_metadata())["worker"] = std::string(worker);
  if (rank.has_value()) (*info.mutable_metadata())["rank"] = absl::StrCat(*rank);
  if (!cause.empty()) (*info.mutable_metadata())["cause"] = std::string(cause);
  error.add_details()->PackFrom(info);
  Enter(v1::JOB_STATE_FAILED, reason, message);
}

void Stepper::FailPrepare(int32_t code, absl::string_view reason, absl::string_view cause,
                          absl::string_view message) {
  std::string text = absl::StrCat("prepare on worker ", record_.prepare().worker(), " ended");
  if (!cause.empty()) absl::StrAppend(&text, " (", cause, ")");
  if (!message.empty()) absl::StrAppend(&text, ": ", message);
  Fail(code == 0 ? google::rpc::INTERNAL : static_cast<google::rpc::Code>(code),
       reason.empty() ? "PREPARE_DIED" : reason, text, record_.prepare().worker(), std::nullopt);
}

internal::PrepareAttempt* Stepper::FindPrepare(const TaskKey& task) {
  if (task.kind != TaskKey::Kind::kPrepare || record_.prepare().attempt() != task.generation ||
      task.generation == 0) {
    return nullptr;
  }
  return record_.mutable_prepare();
}

internal::RankRecord* Stepper::FindRank(const TaskKey& task) {
  if (task.kind != TaskKey::Kind::kTrain || !record_.has_train() ||
      record_.train().generation() != task.generation || task.rank < 0 ||
      task.rank >= record_.train().ranks_size()) {
    return nullptr;
  }
  return record_.mutable_train()->mutable_ranks(task.rank);
}

bool Stepper::MarkEnded(const TaskKey& task) {
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

void Stepper::LeaveIfNothingRuns() {
  if (!OpenTasks(record_).empty()) return;
  if (state() == v1::JOB_STATE_CANCELLING) {
    Enter(v1::JOB_STATE_CANCELLED, "CANCELLED", "cancelled by request; nothing is kept");
  } else if (state() == v1::JOB_STATE_PAUSING) {
    Pause("stopped");
  } else if (state() == v1::JOB_STATE_PREEMPTING) {
    EnterQueue();
  }
}

}  // namespace anneal
