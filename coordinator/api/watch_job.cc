#include "coordinator/api/watch_job.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "coordinator/lifecycle/proto_time.h"
#include "coordinator/lifecycle/shown_job.h"
#include "coordinator/lifecycle/states.h"

namespace anneal {
namespace {

constexpr absl::Duration kHeartbeatEvery = absl::Seconds(15);
// Steps reach the disk this much after the record that shows them, at most.
constexpr absl::Duration kLookEvery = absl::Seconds(1);
constexpr absl::Duration kProgressEvery = absl::Milliseconds(500);
constexpr int kPage = 200;

}  // namespace

WatchJobStream::WatchJobStream(const Parts& parts, ProjectLimits::Stream place, std::string project,
                               std::string job, const v1::WatchJobRequest& request)
    : PumpedWriter(parts.pump, std::move(place)),
      parts_(parts),
      project_(std::move(project)),
      job_(std::move(job)),
      sequence_(request.after_sequence()),
      step_(request.after_step()),
      last_sent_(parts.clock.MonotonicNow()) {}

void WatchJobStream::AddSnapshot(const internal::JobRecord& record) {
  v1::WatchJobResponse& message = waiting_.emplace_back();
  message.set_sequence(record.last_event_sequence());
  ShowJob(record, message.mutable_snapshot());
  shown_message_ = record.job().state_message();
}

absl::Status WatchJobStream::Refill(const internal::JobRecord& record) {
  if (!std::exchange(started_, true)) AddSnapshot(record);
  bool state_changed = false;
  if (record.last_event_sequence() > sequence_) {
    ANNEAL_ASSIGN_OR_RETURN(std::vector<v1::JobEvent> events,
                            parts_.history.ReadEvents(job_, sequence_, kPage));
    for (v1::JobEvent& event : events) {
      // Already on disk but not yet published: comes with the snapshot that it belongs to.
      if (event.sequence() > record.last_event_sequence()) break;
      sequence_ = event.sequence();
      state_changed |= event.has_state_change();
      v1::WatchJobResponse& message = waiting_.emplace_back();
      message.set_sequence(sequence_);
      *message.mutable_event() = std::move(event);
    }
  }
  ANNEAL_ASSIGN_OR_RETURN(std::vector<v1::StepMetrics> steps,
                          parts_.history.ReadSteps(job_, step_, kPage));
  for (v1::StepMetrics& step : steps) {
    step_ = step.step();
    v1::WatchJobResponse& message = waiting_.emplace_back();
    message.set_sequence(sequence_);
    *message.mutable_step() = std::move(step);
  }
  if (state_changed) AddSnapshot(record);
  return absl::OkStatus();
}

absl::StatusOr<WatchJobStream::Due> WatchJobStream::Next(v1::WatchJobResponse* message) {
  const absl::Duration now = parts_.clock.MonotonicNow();
  if (waiting_.empty()) {
    const std::shared_ptr<const internal::JobRecord> record =
        parts_.catalog.FindJob(project_, job_);
    if (record == nullptr)
      return WithReason(absl::NotFoundError(absl::StrCat("no jobs/", job_)), "NOT_FOUND");
    if (record == seen_ && now < seen_at_ + kLookEvery) return Due::kNothing;
    ANNEAL_RETURN_IF_ERROR(Refill(*record));
    // Steps are on disk before the end is, so after the last event there is nothing left.
    if (waiting_.empty() && IsTerminal(record->job().state())) return Due::kEnd;
    const std::string progress = record->job().progress().SerializeAsString();
    if (waiting_.empty() && progress != last_progress_ && now >= progress_sent_ + kProgressEvery) {
      last_progress_ = progress;
      progress_sent_ = now;
      v1::WatchJobResponse& update = waiting_.emplace_back();
      update.set_sequence(sequence_);
      *update.mutable_progress() = record->job().progress();
    }
    const bool says_why = record->job().state_message() != shown_message_;
    if (waiting_.empty() && says_why && now >= why_sent_ + kProgressEvery) {
      why_sent_ = now;
      AddSnapshot(*record);
    }
    if (waiting_.empty() && !says_why && progress == last_progress_) {
      seen_ = record;
      seen_at_ = now;
    }
    if (waiting_.empty() && now >= last_sent_ + kHeartbeatEvery) {
      v1::WatchJobResponse& beat = waiting_.emplace_back();
      beat.set_sequence(sequence_);
      *beat.mutable_heartbeat()->mutable_time() = TimestampOf(parts_.clock.TimeNow());
    }
  }
  if (waiting_.empty()) return Due::kNothing;
  last_sent_ = now;
  *message = std::move(waiting_.front());
  waiting_.pop_front();
  return Due::kMessage;
}

}  // namespace anneal
