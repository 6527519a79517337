#pragma once
// FineTuningService.WatchJob: a job as it changes.

#include <deque>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "anneal/v1/fine_tuning_service.pb.h"
#include "common/base/clock.h"
#include "coordinator/api/pumped_writer.h"
#include "coordinator/catalog/catalog.h"
#include "coordinator/catalog/job_history.h"

namespace anneal {

// Sends a snapshot, then everything after the client's cursors in order: events and, after those
// that change the state, the job as it is now; steps; progress at most twice a second; a heartbeat
// when nothing was sent for 15 s. Ends with the job's end. Nothing is queued beyond one page of the
// history, so a slow client costs nothing but its own delay.
class WatchJobStream : public PumpedWriter<v1::WatchJobResponse> {
 public:
  struct Parts {
    StreamPump& pump;
    const Catalog& catalog;
    JobHistory& history;
    Clock& clock;
  };
  WatchJobStream(const Parts& parts, ProjectLimits::Stream place, std::string project,
                 std::string job, const v1::WatchJobRequest& request);

 private:
  absl::StatusOr<Due> Next(v1::WatchJobResponse* message) override;
  absl::Status Refill(const internal::JobRecord& record);
  void AddSnapshot(const internal::JobRecord& record);

  const Parts parts_;
  const std::string project_;
  const std::string job_;
  // Called by one thread at a time (PumpedWriter), like Next.
  int64_t sequence_;
  int64_t step_;
  bool started_ = false;
  // What was looked at last, and when: without a change there is nothing new but steps that were
  // not on disk then.
  std::shared_ptr<const internal::JobRecord> seen_;
  absl::Duration seen_at_;
  std::deque<v1::WatchJobResponse> waiting_;
  std::string shown_message_;  // of the last snapshot: in which state it is and why
  absl::Duration why_sent_ = -absl::InfiniteDuration();
  std::string last_progress_;
  absl::Duration progress_sent_ = -absl::InfiniteDuration();
  absl::Duration last_sent_;
};

}  // namespace anneal
