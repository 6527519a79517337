#pragma once
// The live numbers of jobs: progress for users, metrics for operators.

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "anneal/internal/catalog.pb.h"
#include "anneal/v1/job.pb.h"
#include "common/metrics/metrics.h"
#include "common/protocol/messages.h"
#include "coordinator/catalog/job_history.h"
#include "coordinator/server/coordinator_metrics.h"

namespace anneal {

// Purpose: keeps what changes with every step out of the state machine and the catalog. The numbers
// reach a job's record by Overlay; on disk they are with the record's next change, and in the step
// metrics. Owner: ControlLoop. Loop thread only.
class JobMeters {
 public:
  JobMeters(CoordinatorMetrics& metrics, MetricRegistry& registry)
      : metrics_(metrics), registry_(registry) {}

  // A live job, new or found at the start with what it had done. What is measured from an event,
  // such as the age of a checkpoint, is measured from now.
  void Start(const internal::JobRecord& record, const StepMetricsWriter::Totals& totals,
             absl::Time now);
  // The record of a job that was started has changed, and the change is durable.
  void TakeRecord(const internal::JobRecord& record, absl::Time now);
  void TakeStep(absl::string_view job, const protocol::StepReport& report, absl::Time now);
  // Of an evaluation or a checkpoint, or of where a job went on; other reports mean nothing here.
  void TakeReport(absl::string_view job, const protocol::Report& report, absl::Time now);
  void TakePhase(absl::string_view job, absl::string_view phase, absl::Time now);
  // A new attempt goes on after this step: those beyond are done, and counted, again.
  void GoBack(absl::string_view job, int64_t step);
  // The job has ended; its series stay for a while, so that the last values are scraped. `now` is
  // monotonic in both calls.
  void End(absl::string_view job, absl::Duration now);
  void RemoveEndedSeries(absl::Duration now);

  // Writes the live numbers into the record.
  void Overlay(internal::JobRecord& record, absl::Time now) const;
  // Jobs whose numbers have changed since the last call.
  std::set<std::string> TakeChanged();

 private:
  struct RecentStep {
    int64_t tokens;
    double seconds;
  };
  struct Meter {
    v1::JobProgress progress;
    int64_t tokens = 0, supervised_tokens = 0;
    std::deque<RecentStep> recent;
    v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
    // A worker has had it: before that thousands may wait, and go, with nothing to show.
    bool shown = false;
    int64_t generation = 0;
    v1::FailureCounts failures;
    // It has had trainers: only then has it the series about them.
    bool trains = false;
  };
  // `shown`: it was, in `before`.
  void ShowState(const internal::JobRecord& record, v1::JobState before, bool shown);
  void ShowTraining(const internal::JobRecord& record);
  // Counts a job that has ended. `before`: its failures until this change.
  void CountEnd(const internal::JobRecord& record, const v1::FailureCounts& before);
  static void MeasureSpeed(const protocol::StepReport& report, Meter& meter);
  // Until the last step; nothing before the first.
  static std::optional<absl::Duration> TimeLeft(const Meter& meter);
  void MarkProgress(absl::string_view job, absl::Time now);
  void MarkCheckpoint(absl::string_view job, absl::Time now);

  CoordinatorMetrics& metrics_;
  MetricRegistry& registry_;
  std::map<std::string, Meter, std::less<>> meters_;
  std::set<std::string> changed_;  // since TakeChanged; all are in meters_
  std::map<std::string, absl::Duration, std::less<>> ended_;
  absl::Duration last_removal_ = -absl::InfiniteDuration();
};

}  // namespace anneal
