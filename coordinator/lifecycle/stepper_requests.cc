#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/spec/resolve.h"
#include "coordinator/lifecycle/shown_job.h"
#include "coordinator/lifecycle/stepper.h"

namespace anneal {
namespace {

constexpr int32_t kMaxSlots = 4096;

}  // namespace

bool Stepper::IsRepetition(const std::string& request_id) const {
  return !request_id.empty() && request_id == record_.last_action_request_id();
}

absl::Status Stepper::Refuse(absl::string_view action, absl::string_view allowed) const {
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(record_.job().name(), " is ", StateName(state()),
                                                 ": ", action, " is possible only for ", allowed)),
      "WRONG_STATE");
}

void Stepper::Accept(const std::string& request_id) {
  changed_ = true;
  record_.set_last_action_request_id(request_id);
}

absl::Status Stepper::On(const CancelRequested& event) {
  if (IsRepetition(event.request_id) || state() == v1::JOB_STATE_CANCELLING ||
      state() == v1::JOB_STATE_CANCELLED) {
    return absl::OkStatus();
  }
  if (IsTerminal(state())) return Refuse("cancelling", "a job that has not ended");
  Accept(event.request_id);
  Enter(v1::JOB_STATE_CANCELLING, "CANCEL_REQUESTED", "its processes are stopped");
  LeaveIfNothingRuns();
  return absl::OkStatus();
}

absl::Status Stepper::On(const PauseRequested& event) {
  if (IsRepetition(event.request_id) || state() == v1::JOB_STATE_PAUSED) return absl::OkStatus();
  switch (state()) {
    case v1::JOB_STATE_PENDING:
    case v1::JOB_STATE_PREPARING:
    case v1::JOB_STATE_QUEUED:
    case v1::JOB_STATE_STARTING:
    case v1::JOB_STATE_RECOVERING:
      Accept(event.request_id);
      Pause("paused by request");
      return absl::OkStatus();
    case v1::JOB_STATE_PREEMPTING:
      Accept(event.request_id);
      // Its trainers stop already; only where the job goes then is changed.
      Enter(v1::JOB_STATE_PAUSING, "PAUSE_REQUESTED", "stops at the next step with a checkpoint");
      record_.set_stop_reason(internal::STOP_REASON_PAUSE);
      return absl::OkStatus();
    case v1::JOB_STATE_RUNNING:
      if (record_.finish_requested()) break;
      Accept(event.request_id);
      BeginStop(v1::JOB_STATE_PAUSING, internal::STOP_REASON_PAUSE, "PAUSE_REQUESTED",
                "stops at the next step with a checkpoint");
      return absl::OkStatus();
    case v1::JOB_STATE_PAUSING:
      Accept(event.request_id);
      record_.set_stop_reason(internal::STOP_REASON_PAUSE);
      return absl::OkStatus();
    default:
      break;
  }
  return Refuse("pausing", "a job that waits or trains");
}

absl::Status Stepper::ChangeSlots(int32_t slots) {
  const int32_t shards = job().resolved().spec().training().logical_shards();
  if (slots < 1 || slots > kMaxSlots || (shards > 0 && shards % slots != 0)) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrCat("slots ", slots, " must be a divisor of the job's ",
                                                shards, " logical shards")),
        "BAD_SLOTS");
  }
  v1::ResourceSpec& resources = *job().mutable_resolved()->mutable_spec()->mutable_resources();
  for (const auto& [name, field] :
       {std::pair("resources.slots", &v1::ResourceSpec::set_slots),
        std::pair("resources.min_slots", &v1::ResourceSpec::set_min_slots),
        std::pair("resources.max_slots", &v1::ResourceSpec::set_max_slots)}) {
    (resources.*field)(slots);
    SetOrigin(name, spec::kOriginUser, &record_);
  }
  return absl::OkStatus();
}

absl::Status Stepper::On(const ResumeRequested& event) {
  if (IsRepetition(event.request_id)) return absl::OkStatus();
  if (state() != v1::JOB_STATE_VALIDATED && state() != v1::JOB_STATE_PAUSED) {
    return Refuse("resuming", "a VALIDATED or PAUSED job");
  }
  if (event.slots.has_value()) {
    absl::Status changed = ChangeSlots(*event.slots);
    if (!changed.ok()) return changed;
  }
  Accept(event.request_id);
  record_.set_limit_base_seconds(record_.train_seconds());
  record_.set_limit_base_slot_seconds(record_.slot_account().ended_attempts());
  if (record_.has_prepared()) {
    EnterQueue();
  } else {
    Enter(v1::JOB_STATE_PENDING, "WAITING_FOR_PREPARE_SLOT", "waits for a prepare slot");
  }
  return absl::OkStatus();
}

absl::Status Stepper::On(const FinishRequested& event) {
  if (IsRepetition(event.request_id) || state() == v1::JOB_STATE_EXPORTING) return absl::OkStatus();
  const bool paused = state() == v1::JOB_STATE_PAUSED && !record_.checkpoints().empty();
  if (!paused && state() != v1::JOB_STATE_RUNNING && state() != v1::JOB_STATE_RECOVERING) {
    return Refuse("finishing", "a RUNNING job, or a PAUSED one with a checkpoint");
  }
  if (record_.finish_requested()) return absl::OkStatus();
  Accept(event.request_id);
  record_.set_finish_requested(true);
  AddEvent(v1::JobEvent::LEVEL_INFO, "asked to stop after this step and keep the model");
  if (paused) EnterQueue();
  return absl::OkStatus();
}

absl::Status Stepper::On(const StacksRequested&) {
  if (!HasTrainers(state())) return Refuse("asking where it stands", "a job that has trainers");
  changed_ = true;
  record_.mutable_train()->set_stacks_requests(record_.train().stacks_requests() + 1);
  return absl::OkStatus();
}

}  // namespace anneal
