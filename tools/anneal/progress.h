#pragma once
// How a job's progress is shown: one line that redraws itself on a terminal, plain lines elsewhere.

#include <optional>
#include <ostream>
#include <string>

#include "absl/time/time.h"
#include "anneal/v1/fine_tuning_service.pb.h"
#include "anneal/v1/job.pb.h"
#include "common/base/clock.h"

namespace anneal::cli {

struct ProgressView {
  v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
  std::string phase;
  int64_t step = 0;
  int64_t total_steps = 0;  // 0 = not known yet
  std::optional<double> loss;
  double tokens_per_second = 0;
  std::optional<absl::Duration> left;
};

// "[######----] 12/64  loss 0.532  81 tokens/s  2m10s left", cut to `width` characters; without the
// bar if `width` is 0.
std::string FormatProgress(const ProgressView& view, int width);

// Feeds on what WatchJob sends and writes what a person wants to know of it. Each step and event is
// shown once, also if the stream was broken and begun again. Guarded by its caller.
class ProgressDisplay {
 public:
  // `terminal_width` 0 = not a terminal: then progress is a line of its own, at most every
  // `plain_interval`.
  ProgressDisplay(std::ostream& out, Clock& clock, int terminal_width,
                  absl::Duration plain_interval = absl::Seconds(5));

  void Show(const v1::WatchJobResponse& update);
  // A line that stays, e.g. about the connection.
  void Note(const std::string& text);
  // Removes the live line. Show may go on afterwards.
  void Clear();

  // Where to take up a broken stream.
  int64_t last_sequence() const { return last_sequence_; }
  int64_t last_step() const { return last_step_; }
  v1::JobState state() const { return view_.state; }

 private:
  void ShowSnapshot(const v1::Job& job);
  void ShowEvent(const v1::JobEvent& event);
  void ShowStep(const v1::StepMetrics& step);
  void ShowProgress(const v1::JobProgress& progress);
  void EstimateTimeLeft(double step_seconds);
  void Refresh(bool important);

  std::ostream& out_;
  Clock& clock_;
  const int terminal_width_;
  const absl::Duration plain_interval_;
  ProgressView view_;
  std::string state_message_;
  std::string last_event_message_;
  int64_t last_sequence_ = 0;
  int64_t last_step_ = 0;
  double smoothed_step_seconds_ = 0;
  std::optional<absl::Duration> last_plain_line_;
  std::string last_text_;
};

}  // namespace anneal::cli
