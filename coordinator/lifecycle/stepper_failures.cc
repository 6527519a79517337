#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/reasons.h"
#include "common/spec/memory.h"
#include "coordinator/lifecycle/checkpoints.h"
#include "coordinator/lifecycle/proto_time.h"
#include "coordinator/lifecycle/stepper.h"

namespace anneal {
namespace {

// So many attempts in a row may fail before their first step until the job has to wait before the
// next; then 1 s, 2 s, ... up to a minute.
constexpr int kFreeAttempts = 5;
constexpr absl::Duration kLongestWait = absl::Minutes(1);

absl::Duration WaitBefore(int failures_in_a_row) {
  const int doublings = failures_in_a_row - kFreeAttempts - 1;
  if (doublings < 0) return absl::ZeroDuration();
  return std::min(kLongestWait, absl::Seconds(int64_t{1} << std::min(doublings, 10)));
}

// What a trainer that did not fit was planned to need, and what to change.
std::string MemoryAdvice(const v1::ResolvedJob& job) {
  const v1::TrainingSpec& training = job.spec().training();
  std::string advice;
  if (job.has_memory_plan()) {
    absl::StrAppend(&advice, "; planned were ", spec::FormatMemoryPlan(job.memory_plan()));
  }
  absl::StrAppend(
      &advice, "; it ran with training.microbatch_tokens ", training.microbatch_tokens(),
      ", data.max_length ", job.spec().data().max_length(), ", training.sharding ",
      v1::TrainingSpec::Sharding_Name(training.sharding()), " on ", job.spec().resources().slots(),
      " slots: lower the first two, spread the state (training.sharding: FULL) over more slots, or "
      "give slots more memory");
  return advice;
}

}  // namespace

void Stepper::DescribeAttemptEnd(const internal::TaskFailure& failure, Blame blame,
                                 absl::string_view message, bool goes_on) {
  v1::JobEvent& event = AddEvent(v1::JobEvent::LEVEL_ERROR, message);
  event.mutable_attempt_end()->set_generation(record_.train().generation());
  event.mutable_attempt_end()->set_rank(failure.rank());
  event.mutable_attempt_end()->set_worker(failure.worker());
  event.mutable_attempt_end()->set_cause(failure.cause());
  event.mutable_attempt_end()->set_blame(BlameName(blame));
  event.mutable_attempt_end()->set_step(job().progress().step());
  if (!goes_on) return;
  const auto& checkpoints = ResumableCheckpoints(record_);
  event.mutable_attempt_end()->set_resume_step(checkpoints.empty() ? 0 : checkpoints[0].step());
}

void Stepper::AttemptFailed(const internal::TaskFailure& failure) {
  job().set_log_tail(failure.log_tail());
  std::string message =
      absl::StrCat("rank ", failure.rank(), " on worker ", failure.worker(), " ended");
  if (!failure.cause().empty()) absl::StrAppend(&message, " (", failure.cause(), ")");
  if (!failure.message().empty()) absl::StrAppend(&message, ": ", failure.message());
  if (failure.reason() == kOutOfMemory) absl::StrAppend(&message, MemoryAdvice(job().resolved()));
  const Blame blame = BlameFor(failure);
  const bool made_progress = job().progress().step() > record_.train().first_step();
  const std::optional<std::string> spent = SpendRetry(blame, made_progress);
  DescribeAttemptEnd(failure, blame, message, /*goes_on=*/!spent.has_value());

  if (spent.has_value()) {
    const bool same_step = record_.retry().same_step_failures() >= kMaxSameStepFailures;
    Fail(static_cast<google::rpc::Code>(failure.code()),
         same_step ? "SAME_STEP_FAILED" : failure.reason(), absl::StrCat(message, *spent),
         failure.worker(), failure.rank(), same_step ? failure.reason() : "");
    return;
  }
  CountRedone(&record_, &slot_time_);
  if (state() == v1::JOB_STATE_PAUSING) {
    Pause("a trainer died while pausing");
  } else {
    GiveUpAttempt(failure.reason(), message);
  }
}

void Stepper::GiveUpAttempt(absl::string_view reason, absl::string_view message) {
  if (state() == v1::JOB_STATE_PREEMPTING) {
    EnterQueue();
  } else {
    *record_.mutable_keep_slots_until() = TimestampOf(now_ + kKeepSlots);
    Enter(v1::JOB_STATE_RECOVERING, reason,
          absl::StrCat(message, "; ",
                       record_.checkpoints().empty()
                           ? std::string("starts again")
                           : absl::StrCat("goes on after step ", record_.checkpoints(0).step())));
  }
}

std::optional<std::string> Stepper::SpendRetry(Blame blame, bool made_progress) {
  internal::RetryState& retry = *record_.mutable_retry();
  v1::FailureCounts& counts = *job().mutable_failures();
  const v1::RetrySpec& budget = job().resolved().spec().retry();
  retry.set_failures_in_a_row(made_progress ? 1 : retry.failures_in_a_row() + 1);
  *retry.mutable_not_before() = TimestampOf(now_ + WaitBefore(retry.failures_in_a_row()));
  int32_t spent = 0, allowed = 0;
  switch (blame) {
    case Blame::kInfrastructure:
      counts.set_infrastructure(spent = counts.infrastructure() + 1);
      allowed = budget.max_infrastructure_failures();
      break;
    case Blame::kUser:
      counts.set_user(spent = counts.user() + 1);
      allowed = budget.max_user_failures();
      break;
    case Blame::kUnknown:
      counts.set_unknown(spent = counts.unknown() + 1);
      allowed = budget.max_unknown_failures();
      break;
  }
  // Machines fail where they like; a step that fails for a reason of its own will do so again.
  if (blame != Blame::kInfrastructure) {
    const int64_t step = job().progress().step();
    const bool again = retry.same_step_failures() > 0 && retry.failed_step() == step;
    retry.set_failed_step(step);
    retry.set_same_step_failures(again ? retry.same_step_failures() + 1 : 1);
    if (retry.same_step_failures() >= kMaxSameStepFailures) {
      return absl::StrCat("; step ", step + 1, " has failed ", retry.same_step_failures(),
                          " times");
    }
  }
  if (spent <= allowed) return std::nullopt;
  if (allowed == 0) return "";
  return absl::StrCat("; failed ", spent, " times for ", BlameName(blame), " causes, ", allowed,
                      " are allowed (retry.max_", BlameName(blame), "_failures)");
}

absl::Status Stepper::On(const Tick&) {
  if (HasTrainers(state()) && record_.train().has_suspect() &&
      now_ >= TimeOf(record_.train().blame_deadline())) {
    AttemptFailed(record_.train().suspect());
  } else if (state() == v1::JOB_STATE_RECOVERING && now_ >= TimeOf(record_.keep_slots_until())) {
    record_.clear_keep_slots_until();
    EnterQueue();
  } else if ((state() == v1::JOB_STATE_PAUSING || state() == v1::JOB_STATE_PREEMPTING) &&
             now_ >= TimeOf(record_.state_time()) + kStopPatience) {
    // It hangs: what it has done since its last checkpoint is given up.
    CountRedone(&record_, &slot_time_);
    if (state() == v1::JOB_STATE_PAUSING) {
      Pause("stopped by force, as it did not reach a step boundary");
    } else {
      EnterQueue();
    }
  } else if (state() == v1::JOB_STATE_RUNNING && !record_.finish_requested()) {
    CheckLimits();
  }
  return absl::OkStatus();
}

}  // namespace anneal
