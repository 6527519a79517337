#include "tools/anneal/progress.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/anneal/text.h"

namespace anneal::cli {
namespace {

constexpr int kBarCells = 24;
// Weight of the newest step in the smoothed step time: about the last ten steps count.
constexpr double kNewestWeight = 0.1;
constexpr char kEraseLine[] = "\r\x1b[K";

std::string Bar(int64_t step, int64_t total) {
  const auto cells = static_cast<int>(kBarCells * std::clamp<int64_t>(step, 0, total) / total);
  return absl::StrCat("[", std::string(cells, '#'), std::string(kBarCells - cells, '-'), "] ");
}

std::string FormatEvaluation(const v1::EvaluationPoint& point) {
  std::string text = absl::StrFormat("loss %.4f, exact match %s", point.loss(),
                                     FormatPercent(point.exact_match()));
  if (point.has_choice_accuracy())
    absl::StrAppend(&text, ", choice accuracy ", FormatPercent(point.choice_accuracy()));
  return absl::StrCat("evaluated after step ", point.step(), ": ", text, " (", point.rows(),
                      " rows)");
}

}  // namespace

std::string FormatProgress(const ProgressView& view, int width) {
  std::string text;
  if (view.total_steps > 0) {
    if (width > 0) text = Bar(view.step, view.total_steps);
    absl::StrAppend(&text, width > 0 ? "" : "step ", view.step, "/", view.total_steps);
    if (view.loss.has_value()) absl::StrAppendFormat(&text, "  loss %.4f", *view.loss);
    if (view.tokens_per_second > 0)
      absl::StrAppend(&text, "  ", FormatCount(view.tokens_per_second), " tokens/s");
    if (view.left.has_value()) absl::StrAppend(&text, "  ", ShortDuration(*view.left), " left");
    if (!view.phase.empty() && view.phase != "train")
      absl::StrAppend(&text, "  ", Printable(view.phase));
  } else {
    text = StateName(view.state);
    if (!view.phase.empty()) absl::StrAppend(&text, ": ", Printable(view.phase));
  }
  // All of it is ASCII but perhaps the phase.
  if (width > 0 && text.size() > static_cast<size_t>(width)) text.resize(width);
  return text;
}

ProgressDisplay::ProgressDisplay(std::ostream& out, Clock& clock, int terminal_width,
                                 absl::Duration plain_interval)
    : out_(out), clock_(clock), terminal_width_(terminal_width), plain_interval_(plain_interval) {}

void ProgressDisplay::Show(const v1::WatchJobResponse& update) {
  switch (update.update_case()) {
    case v1::WatchJobResponse::kSnapshot:
      ShowSnapshot(update.snapshot());
      break;
    case v1::WatchJobResponse::kEvent:
      ShowEvent(update.event());
      break;
    case v1::WatchJobResponse::kStep:
      ShowStep(update.step());
      break;
    case v1::WatchJobResponse::kProgress:
      ShowProgress(update.progress());
      break;
    default:
      break;
  }
  last_sequence_ = std::max(last_sequence_, update.sequence());
}

void ProgressDisplay::ShowSnapshot(const v1::Job& job) {
  const bool changed = job.state() != view_.state || job.state_message() != state_message_;
  view_.state = job.state();
  state_message_ = job.state_message();
  if (job.has_progress()) ShowProgress(job.progress());
  if (changed) {
    const bool said = state_message_.empty() || state_message_ == last_event_message_;
    Note(absl::StrCat(StateName(job.state()), said ? "" : ": ", said ? "" : state_message_));
  }
  if (job.state() != v1::JOB_STATE_RUNNING) view_.left.reset();
}

void ProgressDisplay::ShowEvent(const v1::JobEvent& event) {
  if (event.sequence() <= last_sequence_) return;
  last_sequence_ = event.sequence();
  if (event.has_evaluation()) {
    Note(FormatEvaluation(event.evaluation()));
  } else if (!event.has_state_change()) {  // those come as snapshots
    last_event_message_ = event.message();
    Note(absl::StrCat(event.level() == v1::JobEvent::LEVEL_WARNING ? "warning: "
                      : event.level() == v1::JobEvent::LEVEL_ERROR ? "error: "
                                                                   : "",
                      event.message()));
  }
}

void ProgressDisplay::ShowStep(const v1::StepMetrics& step) {
  if (step.step() <= last_step_) return;
  last_step_ = step.step();
  view_.step = step.step();
  view_.loss = step.train_loss();
  view_.tokens_per_second = step.tokens_per_second();
  EstimateTimeLeft(step.step_seconds());
  Refresh(/*important=*/step.step() == 1 || step.step() == view_.total_steps);
}

// Where the job is comes with its steps, each with its own loss; progress may be ahead of them.
void ProgressDisplay::ShowProgress(const v1::JobProgress& progress) {
  view_.phase = progress.phase();
  view_.total_steps = progress.total_steps();
  Refresh(/*important=*/false);
}

void ProgressDisplay::EstimateTimeLeft(double step_seconds) {
  if (!(step_seconds > 0) || view_.total_steps <= 0) return;
  smoothed_step_seconds_ =
      smoothed_step_seconds_ == 0
          ? step_seconds
          : (1 - kNewestWeight) * smoothed_step_seconds_ + kNewestWeight * step_seconds;
  view_.left =
      absl::Seconds(smoothed_step_seconds_ * static_cast<double>(view_.total_steps - view_.step));
}

void ProgressDisplay::Refresh(bool important) {
  if (terminal_width_ > 0) {
    // One column stays free: a full line would wrap on some terminals.
    out_ << kEraseLine << FormatProgress(view_, terminal_width_ - 1) << std::flush;
    return;
  }
  const absl::Duration now = clock_.MonotonicNow();
  const bool due = !last_plain_line_.has_value() || now - *last_plain_line_ >= plain_interval_;
  if (view_.total_steps == 0 || !(due || important)) return;
  const std::string text = FormatProgress(view_, 0);
  if (text == last_text_) return;
  last_text_ = text;
  last_plain_line_ = now;
  out_ << text << "\n" << std::flush;
}

void ProgressDisplay::Note(const std::string& text) {
  Clear();
  out_ << absl::FormatTime("%H:%M:%S ", clock_.TimeNow(), absl::LocalTimeZone()) << Printable(text)
       << "\n"
       << std::flush;
}

void ProgressDisplay::Clear() {
  if (terminal_width_ > 0) out_ << kEraseLine << std::flush;
}

}  // namespace anneal::cli
