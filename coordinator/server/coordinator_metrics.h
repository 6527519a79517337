#pragma once
// The coordinator's metrics: the table from which docs/metrics.md is made. Times in seconds;
// `job_id`, never `job`, which Prometheus uses itself. Series of a job go a while after its end.

#include <vector>

#include "anneal/v1/cluster_service.pb.h"
#include "common/metrics/metrics.h"
#include "coordinator/lifecycle/job_table.h"

namespace anneal {

struct CoordinatorMetrics {
  explicit CoordinatorMetrics(MetricRegistry& registry);

  void CountJobs(const JobTable& table);
  void CountWorkers(const std::vector<v1::Worker>& roster);

  Gauge jobs;     // {state}
  Gauge workers;  // {state}
  Gauge slots;    // {accelerator, use}
  Histogram queue_wait;
  Histogram turn_seconds;
  Counter failed_turns;

  Gauge job_info;  // {job_id, display_name, model, method}
  Gauge job_step;  // {job_id}, as all below
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
};

}  // namespace anneal
