#include "coordinator/server/coordinator_metrics.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/strip.h"
#include "coordinator/lifecycle/states.h"

namespace anneal {

CoordinatorMetrics::CoordinatorMetrics(MetricRegistry& r)
    : epoch(r, {"anneal_coordinator_epoch",
                "Grows with each start of the coordinator: microseconds of the clock then.",
                {}}),
      jobs(r, {"anneal_jobs", "Jobs by state.", {"state"}}),
      jobs_ended(r, {"anneal_jobs_ended_total",
                     "Jobs that have reached a final state since the coordinator's start.",
                     {"state", "reason"}}),
      jobs_failed(r, {"anneal_jobs_failed_total",
                      "Jobs that have ended FAILED since the coordinator's start, by whose failure "
                      "it was: infrastructure, user or unknown.",
                      {"blame"}}),
      workers(r, {"anneal_workers", "Workers by state.", {"state"}}),
      worker_up(r, {"anneal_worker_up",
                    "1 while the worker is heard, 0 once it is lost. One that has left after "
                    "draining is not shown.",
                    {"worker"}}),
      slots(r, {"anneal_slots",
                "Slots of connected workers by kind and use (free or taken).",
                {"accelerator", "use"}}),
      slots_wanted(r, {"anneal_slots_wanted",
                       "Slots that jobs want and do not have; also of those that are, or will be, "
                       "prepared first.",
                       {"accelerator"}}),
      slot_seconds(r, {"anneal_slot_seconds_total",
                       "Time times slots, by what they did: training (evaluation and export "
                       "included), idle (held by a job that starts, stops or recovers) or free.",
                       {"accelerator", "use"}}),
      wasted_slot_seconds(r, {"anneal_wasted_slot_seconds_total",
                              "Of the training in anneal_slot_seconds_total, what was redone after "
                              "a fault, or lost with a job that failed or was cancelled.",
                              {"accelerator", "use"}}),
      oldest_wait(r, {"anneal_jobs_oldest_wait_seconds",
                      "How long the job that waits longest has waited this time, by what it waits "
                      "for.",
                      {"resource"}}),
      queue_wait(r,
                 {"anneal_job_queue_wait_seconds",
                  "How long jobs waited for slots before each start.",
                  {}},
                 ExponentialBounds(0.1, 4, 10)),
      turn_seconds(r,
                   {"anneal_control_loop_turn_seconds",
                    "Duration of the control loop's turns, commit included.",
                    {}},
                   ExponentialBounds(1e-4, 4, 9)),
      failed_turns(
          r, {"anneal_control_loop_failed_turns_total",
              "Turns whose changes could not be committed and were dropped, to be made again.",
              {}}),
      job_info(r, {"anneal_job_info",
                   "Always 1; carries the names of a job that a worker has had, for joins.",
                   {"job_id", "display_name", "model", "method"}}),
      job_state(r, {"anneal_job_state",
                    "1 for the state that a job is in, 0 for those it has left, from when a worker "
                    "first has it.",
                    {"job_id", "state"}}),
      job_end_info(r, {"anneal_job_end_info",
                       "Always 1; why a job ended, and the cause of its last failure where the "
                       "reason sums up several.",
                       {"job_id", "state", "reason", "cause"}}),
      job_last_progress(r, {"anneal_job_last_progress_timestamp_seconds",
                            "When the job last took a step, evaluated, or changed its state or "
                            "phase, in seconds since 1970.",
                            {"job_id"}}),
      job_slots(r, {"anneal_job_slots", "Slots that the job's trainers hold.", {"job_id"}}),
      job_restarts(r, {"anneal_job_restarts_total",
                       "Attempts to train after the first, since the coordinator's start.",
                       {"job_id"}}),
      job_failed_attempts(r,
                          {"anneal_job_failed_attempts_total",
                           "Attempts to train that failed, since the coordinator's start. Those "
                           "that ended for a pause, a preemption, a drain or more slots did not.",
                           {"job_id"}}),
      job_remaining_seconds(r, {"anneal_job_remaining_seconds",
                                "Estimated time until the last step, at the present speed.",
                                {"job_id"}}),
      job_step(r, {"anneal_job_step", "Last finished optimizer step.", {"job_id"}}),
      job_total_steps(
          r, {"anneal_job_total_steps", "Optimizer steps that the job will make.", {"job_id"}}),
      job_train_loss(r, {"anneal_job_train_loss",
                         "Training loss of the last step: mean over supervised tokens, in nats.",
                         {"job_id"}}),
      job_validation_loss(r, {"anneal_job_validation_loss",
                              "Last validation loss: mean over supervised tokens, in nats.",
                              {"job_id"}}),
      job_learning_rate(
          r, {"anneal_job_learning_rate", "Learning rate of the last step.", {"job_id"}}),
      job_grad_norm(r, {"anneal_job_grad_norm",
                        "Global gradient norm of the last step, before clipping.",
                        {"job_id"}}),
      job_tokens_per_second(r,
                            {"anneal_job_tokens_per_second",
                             "Tokens trained per second over the last steps, all ranks together.",
                             {"job_id"}}),
      job_tokens(r, {"anneal_job_tokens_total", "Tokens trained.", {"job_id"}}),
      job_supervised_tokens(r, {"anneal_job_supervised_tokens_total",
                                "Tokens trained that count for the loss.",
                                {"job_id"}}),
      job_loss_sum(r, {"anneal_job_loss_sum_total",
                       "Sum of the loss over supervised tokens, in nats; divided by "
                       "anneal_job_loss_tokens_total it is the exact mean.",
                       {"job_id"}}),
      job_loss_tokens(r, {"anneal_job_loss_tokens_total",
                          "Supervised tokens in anneal_job_loss_sum_total.",
                          {"job_id"}}),
      job_checkpoints(r, {"anneal_job_checkpoints_total",
                          "Checkpoints written since the coordinator's start.",
                          {"job_id"}}),
      job_checkpoint_failures(r, {"anneal_job_checkpoint_failures_total",
                                  "Checkpoints that could not be written, since the "
                                  "coordinator's start.",
                                  {"job_id"}}),
      job_damaged_checkpoints(r, {"anneal_job_damaged_checkpoints_total",
                                  "Checkpoints that were found damaged when a job went on from "
                                  "an earlier one, since the coordinator's start.",
                                  {"job_id"}}),
      job_last_checkpoint(r, {"anneal_job_last_checkpoint_timestamp_seconds",
                              "When the newest checkpoint was written or, before it, training "
                              "began or the coordinator started, in seconds since 1970.",
                              {"job_id"}}),
      job_checkpoint_interval(r, {"anneal_job_checkpoint_interval_seconds",
                                  "Training time between two checkpoints that the job asks for; "
                                  "0 = only when it is paused or moved.",
                                  {"job_id"}}),
      job_checkpoint_bytes(
          r, {"anneal_job_checkpoint_bytes", "Size of the newest checkpoint.", {"job_id"}}),
      job_checkpoint_write_seconds(
          r, {"anneal_job_checkpoint_write_seconds",
              "How long the newest checkpoint took to write, in the background.",
              {"job_id"}}),
      job_redone_steps(r, {"anneal_job_redone_steps_total",
                           "Steps that were made again after a restart, since the coordinator's "
                           "start.",
                           {"job_id"}}),
      registry_(r) {
  // Totals that alerts watch begin at 0, so that the first event is a rise.
  failed_turns.Add(0);
  queue_wait.Show();
  jobs_ended.Add(0, {StateName(v1::JOB_STATE_SUCCEEDED), BoundedReason("DONE")});
  jobs_ended.Add(0, {StateName(v1::JOB_STATE_CANCELLED), BoundedReason("CANCELLED")});
  for (const char* reason :
       {"BAD_DATA", "NON_FINITE_LOSS", "OUT_OF_MEMORY", "TRAINER_DIED", "KILLED", "EXITED", "HUNG",
        "UNRESPONSIVE", "WORKER_LOST", "WORKER_RESTARTED", "COLLECTIVE_FAILED", "SAME_STEP_FAILED",
        "PREPARE_DIED", "PREPARE_FAILED", "START_FAILED", "MODEL_CHANGED", "OUTPUT_LOST",
        "OTHER"}) {
    jobs_ended.Add(0, {StateName(v1::JOB_STATE_FAILED), BoundedReason(reason)});
  }
  for (Blame blame : {Blame::kInfrastructure, Blame::kUser, Blame::kUnknown})
    jobs_failed.Add(0, {BlameName(blame)});
  CountQueue({}, {});
  for (const auto accelerator :
       {v1::ResourceSpec::ACCELERATOR_CPU, v1::ResourceSpec::ACCELERATOR_GPU})
    CountSlotTime({{UsageKey{.accelerator = accelerator}, UsageSeconds()}});
}

void CoordinatorMetrics::CountSlotTime(const UsageRows& booked) {
  for (const auto& [key, seconds] : booked) {
    const char* kind = key.accelerator == v1::ResourceSpec::ACCELERATOR_GPU ? "gpu" : "cpu";
    // What moves from one kind of training to another stays training; rounding is no fall.
    const double training = seconds.held.useful + seconds.held.redone + seconds.held.lost;
    slot_seconds.Add(std::max(0.0, training), {kind, "training"});
    slot_seconds.Add(seconds.held.idle, {kind, "idle"});
    slot_seconds.Add(seconds.free, {kind, "free"});
    wasted_slot_seconds.Add(seconds.held.redone, {kind, "redone"});
    wasted_slot_seconds.Add(seconds.held.lost, {kind, "lost"});
  }
}

void CoordinatorMetrics::CountWorkers(const std::vector<v1::Worker>& roster) {
  int ready = 0, draining = 0, excluded = 0, lost = 0;
  std::map<std::pair<std::string, std::string>, int> uses = {
      {{"cpu", "free"}, 0}, {{"cpu", "taken"}, 0}, {{"gpu", "free"}, 0}, {{"gpu", "taken"}, 0}};
  for (const v1::Worker& worker : roster) {
    ready += worker.state() == v1::Worker::STATE_READY;
    draining += worker.state() == v1::Worker::STATE_DRAINING;
    excluded += worker.state() == v1::Worker::STATE_EXCLUDED;
    lost += worker.state() == v1::Worker::STATE_LOST;
    if (worker.state() == v1::Worker::STATE_LOST) continue;
    for (const v1::Slot& slot : worker.slots()) {
      const char* kind = slot.accelerator() == v1::ResourceSpec::ACCELERATOR_GPU ? "gpu" : "cpu";
      ++uses[{kind, slot.job().empty() ? "free" : "taken"}];
    }
  }
  std::set<std::string> shown;
  for (const v1::Worker& worker : roster) {
    const std::string name(absl::StripPrefix(worker.name(), "workers/"));
    worker_up.Set(worker.state() == v1::Worker::STATE_LOST ? 0 : 1, {name});
    shown_workers_.erase(name);
    shown.insert(name);
  }
  if (!shown_workers_.empty()) registry_.RemoveSeries("worker", shown_workers_);
  shown_workers_ = std::move(shown);
  workers.Set(ready, {"READY"});
  workers.Set(draining, {"DRAINING"});
  workers.Set(excluded, {"EXCLUDED"});
  workers.Set(lost, {"LOST"});
  for (const auto& [key, count] : uses) slots.Set(count, {key.first, key.second});
}

void CoordinatorMetrics::CountQueue(const LongestWaits& waits, const SlotsWanted& wanted) {
  oldest_wait.Set(absl::ToDoubleSeconds(waits.prepare), {"prepare_slot"});
  oldest_wait.Set(absl::ToDoubleSeconds(waits.slots), {"slots"});
  slots_wanted.Set(wanted.cpu, {"cpu"});
  slots_wanted.Set(wanted.gpu, {"gpu"});
}

absl::string_view CoordinatorMetrics::BoundedReason(absl::string_view reason) {
  constexpr size_t kMostReasons = 40, kMostCharacters = 64;
  if (reasons_.find(reason) != reasons_.end()) return reason;
  if (reasons_.size() >= kMostReasons || reason.empty() || reason.size() > kMostCharacters)
    return "OTHER";
  return *reasons_.insert(std::string(reason)).first;
}

void CoordinatorMetrics::CountEnd(absl::string_view job, v1::JobState state,
                                  absl::string_view reason, absl::string_view cause) {
  const absl::string_view bounded = BoundedReason(reason);
  jobs_ended.Increment({StateName(state), bounded});
  job_end_info.Set(1, {job, StateName(state), bounded, BoundedReason(cause)});
}

void CoordinatorMetrics::CountJobs(const std::map<v1::JobState, int>& by_state) {
  for (int number = v1::JOB_STATE_PENDING; number <= v1::JobState_MAX; ++number) {
    const auto state = static_cast<v1::JobState>(number);
    const auto count = by_state.find(state);
    jobs.Set(count == by_state.end() ? 0 : count->second, {StateName(state)});
  }
}

}  // namespace anneal
