#pragma once
// The coordinator's metrics: the table from which docs/metrics.md is made. Times in seconds;
// `job_id`, never `job`, which Prometheus uses itself. Series of a job go a while after its end.

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "anneal/v1/cluster_service.pb.h"
#include "anneal/v1/job.pb.h"
#include "common/metrics/metrics.h"
#include "coordinator/catalog/usage_ledger.h"
#include "coordinator/lifecycle/blame.h"
#include "coordinator/scheduling/placement_policy.h"
#include "coordinator/server/job_queue.h"

namespace anneal {

// Loop thread only.
struct CoordinatorMetrics {
  explicit CoordinatorMetrics(MetricRegistry& registry);

  void CountJobs(const std::map<v1::JobState, int>& by_state);
  void CountWorkers(const std::vector<v1::Worker>& roster);
  void CountQueue(const LongestWaits& waits, const SlotsWanted& wanted);
  void CountSlotTime(const UsageRows& booked);
  // `cause`: the reason of its last failure, where `reason` sums up several; else the same.
  void CountEnd(absl::string_view job, v1::JobState state, absl::string_view reason,
                absl::string_view cause);
  // Whose failure it was that a job ended FAILED.
  void CountFailure(Blame blame) { jobs_failed.Increment({BlameName(blame)}); }

  Gauge epoch;
  Gauge jobs;                   // {state}
  Counter jobs_ended;           // {state, reason}
  Counter jobs_failed;          // {blame}
  Gauge workers;                // {state}
  Gauge worker_up;              // {worker}
  Gauge slots;                  // {accelerator, use}
  Gauge slots_wanted;           // {accelerator}
  Counter slot_seconds;         // {accelerator, use}
  Counter wasted_slot_seconds;  // {accelerator, use}
  Gauge oldest_wait;            // {resource}
  Histogram queue_wait;
  Histogram turn_seconds;
  Counter failed_turns;

  Gauge job_info;           // {job_id, display_name, model, method}
  Gauge job_state;          // {job_id, state}
  Gauge job_end_info;       // {job_id, state, reason, cause}
  Gauge job_last_progress;  // {job_id}, as all below
  Gauge job_slots;
  Counter job_restarts;
  Counter job_failed_attempts;
  Gauge job_remaining_seconds;
  Gauge job_step;
  Gauge job_total_steps;
  Gauge job_train_loss;
  Gauge job_validation_loss;
  Gauge job_learning_rate;
  Gauge job_grad_norm;
  Gauge job_tokens_per_second;
  Counter job_tokens;
  Counter job_supervised_tokens;
  Counter job_loss_sum;
  Counter job_loss_tokens;
  Counter job_checkpoints;
  Counter job_checkpoint_failures;
  Counter job_damaged_checkpoints;
  Gauge job_last_checkpoint;
  Gauge job_checkpoint_interval;
  Gauge job_checkpoint_bytes;
  Gauge job_checkpoint_write_seconds;
  Counter job_redone_steps;

 private:
  // A reason as it may become a label: those that workers invent after the first few dozen are all
  // "OTHER".
  absl::string_view BoundedReason(absl::string_view reason);

  MetricRegistry& registry_;
  std::set<std::string> shown_workers_;
  std::set<std::string, std::less<>> reasons_;
};

}  // namespace anneal
