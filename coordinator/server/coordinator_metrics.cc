#include "coordinator/server/coordinator_metrics.h"

#include <map>
#include <string>
#include <utility>

#include "coordinator/lifecycle/states.h"

namespace anneal {

CoordinatorMetrics::CoordinatorMetrics(MetricRegistry& r)
    : jobs(r, {"anneal_jobs", "Jobs by state.", {"state"}}),
      workers(r, {"anneal_workers", "Workers by state.", {"state"}}),
      slots(r, {"anneal_slots",
                "Slots of connected workers by kind and use (free or taken).",
                {"accelerator", "use"}}),
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
                   "Always 1; carries a job's names for joins.",
                   {"job_id", "display_name", "model", "method"}}),
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
                          {"job_id"}}) {}

void CoordinatorMetrics::CountWorkers(const std::vector<v1::Worker>& roster) {
  int ready = 0, draining = 0, lost = 0;
  std::map<std::pair<std::string, std::string>, int> uses = {
      {{"cpu", "free"}, 0}, {{"cpu", "taken"}, 0}, {{"gpu", "free"}, 0}, {{"gpu", "taken"}, 0}};
  for (const v1::Worker& worker : roster) {
    ready += worker.state() == v1::Worker::STATE_READY;
    draining += worker.state() == v1::Worker::STATE_DRAINING;
    lost += worker.state() == v1::Worker::STATE_LOST;
    if (worker.state() == v1::Worker::STATE_LOST) continue;
    for (const v1::Slot& slot : worker.slots()) {
      const char* kind = slot.accelerator() == v1::ResourceSpec::ACCELERATOR_GPU ? "gpu" : "cpu";
      ++uses[{kind, slot.job().empty() ? "free" : "taken"}];
    }
  }
  workers.Set(ready, {"READY"});
  workers.Set(draining, {"DRAINING"});
  workers.Set(lost, {"LOST"});
  for (const auto& [key, count] : uses) slots.Set(count, {key.first, key.second});
}

void CoordinatorMetrics::CountJobs(const JobTable& table) {
  std::map<v1::JobState, int> counts;
  for (int state = v1::JOB_STATE_PENDING; state <= v1::JobState_MAX; ++state)
    counts[static_cast<v1::JobState>(state)] = 0;
  for (const auto& [id, record] : table) ++counts[record->job().state()];
  for (const auto& [state, count] : counts) jobs.Set(count, {StateName(state)});
}

}  // namespace anneal
