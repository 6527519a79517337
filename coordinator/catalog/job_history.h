#pragma once
// The long lists of a job: its events and its steps.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "anneal/v1/job.pb.h"
#include "coordinator/catalog/sqlite.h"

namespace anneal {

// Purpose: reads for handlers, on connections of its own, so that readers never wait for the loop's
// commits. Owner: Coordinator. Thread-safe.
class JobHistory {
 public:
  static absl::StatusOr<std::unique_ptr<JobHistory>> Open(const std::string& data_dir);

  // Oldest first, at most `limit`.
  absl::StatusOr<std::vector<v1::JobEvent>> ReadEvents(absl::string_view job,
                                                       int64_t after_sequence, int limit);
  // Oldest first, at most `limit`; each with the evaluation made after it, if any.
  absl::StatusOr<std::vector<v1::StepMetrics>> ReadSteps(absl::string_view job, int64_t after_step,
                                                         int limit);
  // The evaluation before training.
  absl::StatusOr<std::optional<v1::EvaluationPoint>> ReadFirstEvaluation(absl::string_view job);

 private:
  JobHistory(Database catalog, Database metrics)
      : catalog_(std::move(catalog)), metrics_(std::move(metrics)) {}

  absl::Mutex mu_;
  Database catalog_ ABSL_GUARDED_BY(mu_);
  Database metrics_ ABSL_GUARDED_BY(mu_);
};

// Purpose: collects step metrics and writes them in batches. What is not flushed is lost in a
// crash; the worker sends it again, because its report was not acknowledged. Owner: Coordinator.
// Loop thread only.
class StepMetricsWriter {
 public:
  static absl::StatusOr<std::unique_ptr<StepMetricsWriter>> Open(const std::string& data_dir);

  void AddStep(absl::string_view job, v1::StepMetrics metrics);
  void AddEvaluation(absl::string_view job, int64_t generation, v1::EvaluationPoint point);
  bool has_unflushed() const { return !steps_.empty() || !evaluations_.empty(); }
  // Writes everything in one transaction. Of two generations' words on a step the newer stays.
  // After an error nothing is written and nothing is left to flush: it will come again.
  absl::Status Flush();

  absl::Status DeleteJob(absl::string_view job);

  struct Totals {
    v1::StepMetrics last_step;  // step 0 if there is none
    int64_t tokens = 0, supervised_tokens = 0;
  };
  // Over the steps on disk: where a job stood when the coordinator stopped.
  absl::StatusOr<Totals> ReadTotals(absl::string_view job);

 private:
  struct Step {
    std::string job;
    v1::StepMetrics metrics;
  };
  struct Evaluation {
    std::string job;
    int64_t generation;
    v1::EvaluationPoint point;
  };
  explicit StepMetricsWriter(Database database) : database_(std::move(database)) {}

  Database database_;
  std::vector<Step> steps_;
  std::vector<Evaluation> evaluations_;
};

}  // namespace anneal
