#include "coordinator/server/job_meters.h"

#include <algorithm>
#include <utility>

#include "coordinator/lifecycle/proto_time.h"
#include "coordinator/lifecycle/slot_account.h"
#include "coordinator/lifecycle/states.h"
#include "google/protobuf/util/time_util.h"
#include "google/rpc/error_details.pb.h"

namespace anneal {
namespace {

using ::google::protobuf::util::TimeUtil;

// Speed is measured over the steps of about so much time, at least the last one.
constexpr double kSpeedWindowSeconds = 10;
constexpr absl::Duration kSeriesLinger = absl::Minutes(5);
// Each time all series of the program are looked at.
constexpr absl::Duration kRemoveEvery = absl::Seconds(10);

// The reason of the failure that ended the job, also where several did.
std::string CauseOfEnd(const v1::Job& job) {
  for (const google::protobuf::Any& detail : job.error().details()) {
    google::rpc::ErrorInfo info;
    if (!detail.UnpackTo(&info)) continue;
    const auto cause = info.metadata().find("cause");
    if (cause != info.metadata().end()) return cause->second;
  }
  return job.state_reason();
}

bool HadWorker(const internal::JobRecord& record) {
  return record.prepare().attempt() > 0 || record.job().generation() > 0;
}

int64_t Sum(const v1::FailureCounts& failures) {
  return int64_t{failures.infrastructure()} + failures.user() + failures.unknown();
}

// Whose failure it was that ended the job: what its last attempt was counted as or, where none was,
// what its error says.
Blame BlameOfEnd(const v1::Job& job, const v1::FailureCounts& before) {
  const v1::FailureCounts& now = job.failures();
  if (now.infrastructure() > before.infrastructure()) return Blame::kInfrastructure;
  if (now.unknown() > before.unknown()) return Blame::kUnknown;
  if (now.user() > before.user()) return Blame::kUser;
  internal::TaskFailure failure;
  failure.set_code(job.error().code());
  failure.set_reason(job.state_reason());
  return BlameFor(failure);
}

}  // namespace

void JobMeters::Start(const internal::JobRecord& record, const StepMetricsWriter::Totals& totals,
                      absl::Time now) {
  Meter& meter = meters_[record.id()];
  meter.progress = record.job().progress();
  meter.tokens = totals.tokens;
  meter.supervised_tokens = totals.supervised_tokens;
  // What an earlier generation has done beyond the present one's start is done again.
  if (totals.last_step.generation() == record.job().generation() &&
      totals.last_step.step() > meter.progress.step()) {
    meter.progress.set_step(totals.last_step.step());
    meter.progress.set_train_loss(totals.last_step.train_loss());
    meter.progress.set_epoch(totals.last_step.epoch());
  }
  meter.generation = record.job().generation();
  meter.failures = record.job().failures();
  TakeRecord(record, now);
}

void JobMeters::ShowState(const internal::JobRecord& record, v1::JobState before, bool shown) {
  if (shown) {
    metrics_.job_state.Set(0, {record.id(), StateName(before)});
  } else {
    const v1::JobSpec& spec = record.job().resolved().spec();
    metrics_.job_info.Set(1, {record.id(), spec.display_name(), spec.model(),
                              spec.method().has_full() ? "full" : "lora"});
  }
  metrics_.job_state.Set(1, {record.id(), StateName(record.job().state())});
}

void JobMeters::ShowTraining(const internal::JobRecord& record) {
  const v1::CheckpointSpec& checkpoint = record.job().resolved().spec().checkpoint();
  const int64_t milliseconds = TimeUtil::DurationToMilliseconds(checkpoint.every());
  metrics_.job_checkpoint_interval.Set(static_cast<double>(milliseconds) / 1000, {record.id()});
  // Totals begin at 0, so that the first event is a rise.
  for (Counter* total :
       {&metrics_.job_restarts, &metrics_.job_failed_attempts, &metrics_.job_checkpoints,
        &metrics_.job_checkpoint_failures, &metrics_.job_damaged_checkpoints,
        &metrics_.job_redone_steps, &metrics_.job_tokens, &metrics_.job_supervised_tokens,
        &metrics_.job_loss_sum, &metrics_.job_loss_tokens}) {
    total->Add(0, {record.id()});
  }
}

void JobMeters::TakeRecord(const internal::JobRecord& record, absl::Time now) {
  const auto found = meters_.find(record.id());
  if (found == meters_.end()) return;
  Meter& meter = found->second;
  const int64_t generation = record.job().generation();
  if (generation > 0 && !std::exchange(meter.trains, true)) ShowTraining(record);
  if (meter.generation > 0 && generation > meter.generation) {
    metrics_.job_restarts.Add(static_cast<double>(generation - meter.generation), {record.id()});
  }
  meter.generation = generation;
  const v1::FailureCounts failures_before = std::exchange(meter.failures, record.job().failures());
  const int64_t failed = Sum(meter.failures) - Sum(failures_before);
  if (failed > 0) metrics_.job_failed_attempts.Add(static_cast<double>(failed), {record.id()});
  const auto& ranks = record.train().ranks();
  const auto held = std::count_if(ranks.begin(), ranks.end(),
                                  [](const internal::RankRecord& rank) { return !rank.ended(); });
  if (meter.trains) metrics_.job_slots.Set(static_cast<double>(held), {record.id()});
  const v1::JobState state = record.job().state();
  if (state == meter.state) return;
  const v1::JobState before = std::exchange(meter.state, state);
  if (meter.shown || HadWorker(record)) {
    ShowState(record, before, std::exchange(meter.shown, true));
    MarkProgress(record.id(), now);
  }
  if (state != v1::JOB_STATE_RUNNING) {
    // Neither holds on while nothing is trained.
    metrics_.job_remaining_seconds.Remove({record.id()});
    metrics_.job_tokens_per_second.Remove({record.id()});
  }
  // Before the first checkpoint all since the start of training would be lost.
  if (state == v1::JOB_STATE_RUNNING) MarkCheckpoint(record.id(), now);
  if (IsTerminal(state)) {
    if (meter.trains) metrics_.job_slots.Set(0, {record.id()});
    CountEnd(record, failures_before);
  }
}

void JobMeters::CountEnd(const internal::JobRecord& record, const v1::FailureCounts& before) {
  const v1::Job& job = record.job();
  metrics_.CountEnd(record.id(), job.state(), job.state_reason(), CauseOfEnd(job));
  if (job.state() == v1::JOB_STATE_FAILED) metrics_.CountFailure(BlameOfEnd(job, before));
}

void JobMeters::MarkProgress(absl::string_view job, absl::Time now) {
  metrics_.job_last_progress.Set(absl::ToDoubleSeconds(now - absl::UnixEpoch()), {job});
}

void JobMeters::MarkCheckpoint(absl::string_view job, absl::Time now) {
  metrics_.job_last_checkpoint.Set(absl::ToDoubleSeconds(now - absl::UnixEpoch()), {job});
}

std::optional<absl::Duration> JobMeters::TimeLeft(const Meter& meter) {
  if (meter.recent.empty()) return std::nullopt;
  double seconds = 0;
  for (const RecentStep& step : meter.recent) seconds += step.seconds;
  const auto steps = static_cast<double>(meter.progress.total_steps() - meter.progress.step());
  return absl::Seconds(steps * seconds / static_cast<double>(meter.recent.size()));
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

void JobMeters::TakeStep(absl::string_view job, const protocol::StepReport& report,
                         absl::Time now) {
  const auto found = meters_.find(job);
  // A report that came again after a restart is in the totals already.
  if (found == meters_.end() || report.step <= found->second.progress.step()) return;
  Meter& meter = found->second;
  changed_.emplace(job);
  meter.progress.set_step(report.step);
  meter.progress.set_total_steps(report.total_steps);
  meter.progress.set_epoch(report.epoch);
  meter.progress.set_train_loss(report.train_loss);
  meter.tokens += report.tokens;
  meter.supervised_tokens += report.supervised_tokens;
  MeasureSpeed(report, meter);
  MarkProgress(job, now);

  const auto supervised = static_cast<double>(report.supervised_tokens);
  metrics_.job_step.Set(static_cast<double>(report.step), {job});
  metrics_.job_total_steps.Set(static_cast<double>(report.total_steps), {job});
  metrics_.job_train_loss.Set(report.train_loss, {job});
  metrics_.job_learning_rate.Set(report.learning_rate, {job});
  metrics_.job_grad_norm.Set(report.grad_norm, {job});
  metrics_.job_tokens_per_second.Set(meter.progress.tokens_per_second(), {job});
  metrics_.job_remaining_seconds.Set(absl::ToDoubleSeconds(*TimeLeft(meter)), {job});
  metrics_.job_tokens.Add(static_cast<double>(report.tokens), {job});
  metrics_.job_supervised_tokens.Add(supervised, {job});
  metrics_.job_loss_sum.Add(report.train_loss * supervised, {job});
  metrics_.job_loss_tokens.Add(supervised, {job});
}

void JobMeters::TakeReport(absl::string_view job, const protocol::Report& report, absl::Time now) {
  const auto found = meters_.find(job);
  if (found == meters_.end()) return;
  Meter& meter = found->second;
  if (report.evaluation.has_value()) {
    changed_.emplace(job);
    meter.progress.set_validation_loss(report.evaluation->loss);
    metrics_.job_validation_loss.Set(report.evaluation->loss, {job});
    MarkProgress(job, now);
  }
  if (report.checkpoint.has_value()) {
    metrics_.job_checkpoints.Increment({job});
    MarkCheckpoint(job, now);
    metrics_.job_checkpoint_bytes.Set(static_cast<double>(report.checkpoint->bytes), {job});
    metrics_.job_checkpoint_write_seconds.Set(report.checkpoint->write_seconds, {job});
  }
  if (report.checkpoint_failed.has_value()) metrics_.job_checkpoint_failures.Increment({job});
  if (report.resumed.has_value()) {
    const auto damaged = static_cast<double>(report.resumed->damaged.size());
    metrics_.job_damaged_checkpoints.Add(damaged, {job});
    GoBack(job, report.resumed->step);
    MarkProgress(job, now);
  }
}

void JobMeters::TakePhase(absl::string_view job, absl::string_view phase, absl::Time now) {
  const auto found = meters_.find(job);
  if (found == meters_.end()) return;
  changed_.emplace(job);
  found->second.progress.set_phase(std::string(phase));
  MarkProgress(job, now);
}

void JobMeters::GoBack(absl::string_view job, int64_t step) {
  const auto found = meters_.find(job);
  if (found == meters_.end()) return;
  Meter& meter = found->second;
  metrics_.job_redone_steps.Add(static_cast<double>(meter.progress.step() - step), {job});
  changed_.emplace(job);
  meter.progress.set_step(step);
  meter.recent.clear();
}

void JobMeters::End(absl::string_view job, absl::Duration now) {
  const auto found = meters_.find(job);
  if (found == meters_.end()) return;
  changed_.erase(found->first);
  meters_.erase(found);
  ended_[std::string(job)] = now;
}

void JobMeters::RemoveEndedSeries(absl::Duration now) {
  if (now < last_removal_ + kRemoveEvery) return;
  last_removal_ = now;
  std::set<std::string> gone;
  for (auto it = ended_.begin(); it != ended_.end();) {
    if (now < it->second + kSeriesLinger) {
      ++it;
    } else {
      gone.insert(it->first);
      it = ended_.erase(it);
    }
  }
  if (!gone.empty()) registry_.RemoveSeries("job_id", gone);
}

void JobMeters::Overlay(internal::JobRecord& record, absl::Time now) const {
  const auto found = meters_.find(record.id());
  if (found == meters_.end()) return;
  const Meter& meter = found->second;
  v1::Job& job = *record.mutable_job();
  *job.mutable_progress() = meter.progress;
  job.mutable_usage()->set_trained_tokens(meter.tokens);
  job.mutable_usage()->set_supervised_tokens(meter.supervised_tokens);
  ShowSlotTime(now, &record);
  job.clear_estimated_finish_time();
  const std::optional<absl::Duration> left = TimeLeft(meter);
  if (job.state() != v1::JOB_STATE_RUNNING || !left.has_value()) return;
  *job.mutable_estimated_finish_time() = TimestampOf(now + *left);
}

std::set<std::string> JobMeters::TakeChanged() { return std::exchange(changed_, {}); }

}  // namespace anneal
