#include "coordinator/server/job_meters.h"

#include <utility>

#include "coordinator/lifecycle/proto_time.h"

namespace anneal {
namespace {

// Speed is measured over the steps of about so much time, at least the last one.
constexpr double kSpeedWindowSeconds = 10;
constexpr absl::Duration kSeriesLinger = absl::Minutes(5);

}  // namespace

void JobMeters::Start(const internal::JobRecord& record, const StepMetricsWriter::Totals& totals) {
  Meter& meter = meters_[record.id()];
  meter.progress = record.job().progress();
  meter.tokens = totals.tokens;
  meter.supervised_tokens = totals.supervised_tokens;
  if (totals.last_step.step() > meter.progress.step()) {
    meter.progress.set_step(totals.last_step.step());
    meter.progress.set_train_loss(totals.last_step.train_loss());
    meter.progress.set_epoch(totals.last_step.epoch());
  }
  const v1::JobSpec& spec = record.job().resolved().spec();
  metrics_.job_info.Set(1, {record.id(), spec.display_name(), spec.model(),
                            spec.method().has_full() ? "full" : "lora"});
}

void JobMeters::MeasureSpeed(const protocol::StepReport& report, Meter& meter) {
  meter.recent.push_back({report.tokens, report.step_seconds});
  double seconds = 0;
  int64_t tokens = 0;
  for (const RecentStep& step : meter.recent) {
    seconds += step.seconds;
    tokens += step.tokens;
  }
  while (meter.recent.size() > 1 && seconds - meter.recent.front().seconds >= kSpeedWindowSeconds) {
    seconds -= meter.recent.front().seconds;
    tokens -= meter.recent.front().tokens;
    meter.recent.pop_front();
  }
  if (seconds > 0) meter.progress.set_tokens_per_second(static_cast<double>(tokens) / seconds);
}

void JobMeters::TakeStep(absl::string_view job, const protocol::StepReport& report) {
  const auto found = meters_.find(job);
  // A report that came again after a restart is in the totals already.
  if (found == meters_.end() || report.step <= found->second.progress.step()) return;
  Meter& meter = found->second;
  meter.changed = true;
  meter.progress.set_step(report.step);
  meter.progress.set_total_steps(report.total_steps);
  meter.progress.set_epoch(report.epoch);
  meter.progress.set_train_loss(report.train_loss);
  meter.tokens += report.tokens;
  meter.supervised_tokens += report.supervised_tokens;
  MeasureSpeed(report, meter);

  const auto supervised = static_cast<double>(report.supervised_tokens);
  metrics_.job_step.Set(static_cast<double>(report.step), {job});
  metrics_.job_total_steps.Set(static_cast<double>(report.total_steps), {job});
  metrics_.job_train_loss.Set(report.train_loss, {job});
  metrics_.job_learning_rate.Set(report.learning_rate, {job});
  metrics_.job_grad_norm.Set(report.grad_norm, {job});
  metrics_.job_tokens_per_second.Set(meter.progress.tokens_per_second(), {job});
  metrics_.job_tokens.Add(static_cast<double>(report.tokens), {job});
  metrics_.job_supervised_tokens.Add(supervised, {job});
  metrics_.job_loss_sum.Add(report.train_loss * supervised, {job});
  metrics_.job_loss_tokens.Add(supervised, {job});
}

void JobMeters::TakeEvaluation(absl::string_view job, const protocol::EvaluationReport& report) {
  const auto found = meters_.find(job);
  if (found == meters_.end()) return;
  found->second.changed = true;
  found->second.progress.set_validation_loss(report.loss);
  metrics_.job_validation_loss.Set(report.loss, {job});
}

void JobMeters::TakePhase(absl::string_view job, absl::string_view phase) {
  const auto found = meters_.find(job);
  if (found == meters_.end()) return;
  found->second.changed = true;
  found->second.progress.set_phase(std::string(phase));
}

void JobMeters::End(absl::string_view job, absl::Duration now) {
  const auto found = meters_.find(job);
  if (found == meters_.end()) return;
  meters_.erase(found);
  ended_[std::string(job)] = now;
}

void JobMeters::RemoveEndedSeries(absl::Duration now) {
  for (auto it = ended_.begin(); it != ended_.end();) {
    if (now < it->second + kSeriesLinger) {
      ++it;
      continue;
    }
    registry_.RemoveSeries("job_id", it->first);
    it = ended_.erase(it);
  }
}

void JobMeters::Overlay(internal::JobRecord& record, absl::Time now) const {
  const auto found = meters_.find(record.id());
  if (found == meters_.end()) return;
  const Meter& meter = found->second;
  v1::Job& job = *record.mutable_job();
  *job.mutable_progress() = meter.progress;
  job.mutable_usage()->set_trained_tokens(meter.tokens);
  job.mutable_usage()->set_supervised_tokens(meter.supervised_tokens);
  job.clear_estimated_finish_time();
  if (job.state() != v1::JOB_STATE_RUNNING || meter.recent.empty()) return;
  double seconds = 0;
  for (const RecentStep& step : meter.recent) seconds += step.seconds;
  const double steps_left =
      static_cast<double>(meter.progress.total_steps() - meter.progress.step());
  const absl::Time finish =
      now + absl::Seconds(steps_left * seconds / static_cast<double>(meter.recent.size()));
  *job.mutable_estimated_finish_time() = TimestampOf(finish);
}

std::vector<std::string> JobMeters::TakeChanged() {
  std::vector<std::string> jobs;
  for (auto& [job, meter] : meters_) {
    if (std::exchange(meter.changed, false)) jobs.push_back(job);
  }
  return jobs;
}

}  // namespace anneal
