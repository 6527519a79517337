#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "coordinator/lifecycle/states.h"
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
  CancelIfNothingRuns();
  return absl::OkStatus();
}

absl::Status Stepper::On(const ResumeRequested& event) {
  if (IsRepetition(event.request_id)) return absl::OkStatus();
  if (state() != v1::JOB_STATE_VALIDATED && state() != v1::JOB_STATE_PAUSED) {
    return Refuse("resuming", "a VALIDATED or PAUSED job");
  }
  if (event.slots.has_value()) {
    const int32_t shards = job().resolved().spec().training().logical_shards();
    if (*event.slots < 1 || *event.slots > kMaxSlots ||
        (shards > 0 && shards % *event.slots != 0)) {
      return WithReason(absl::InvalidArgumentError(absl::StrCat("slots ", *event.slots,
                                                                " must be a divisor of the job's ",
                                                                shards, " logical shards")),
                        "BAD_SLOTS");
    }
    job().mutable_resolved()->mutable_spec()->mutable_resources()->set_slots(*event.slots);
    (*job().mutable_resolved()->mutable_origins())["resources.slots"] = "user";
  }
  Accept(event.request_id);
  EnterQueue();
  return absl::OkStatus();
}

absl::Status Stepper::On(const FinishRequested& event) {
  if (IsRepetition(event.request_id) || state() == v1::JOB_STATE_EXPORTING) return absl::OkStatus();
  if (state() != v1::JOB_STATE_RUNNING) return Refuse("finishing", "a RUNNING job");
  if (record_.finish_requested()) return absl::OkStatus();
  Accept(event.request_id);
  record_.set_finish_requested(true);
  AddEvent(v1::JobEvent::LEVEL_INFO, "asked to stop after this step and keep the model");
  return absl::OkStatus();
}

}  // namespace anneal
