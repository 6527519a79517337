#include "worker/daemon/worker_metrics.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace anneal {
namespace {

using protocol::RankReport;

constexpr absl::Duration kLinger = absl::Minutes(5);

constexpr std::pair<const char*, double RankReport::*> kPhases[] = {
    {"fetch", &RankReport::fetch_seconds},       {"forward", &RankReport::forward_seconds},
    {"backward", &RankReport::backward_seconds}, {"reduce", &RankReport::reduce_seconds},
    {"update", &RankReport::update_seconds},     {"evaluate", &RankReport::evaluate_seconds},
    {"load", &RankReport::load_seconds}};

}  // namespace

WorkerMetrics::WorkerMetrics(MetricRegistry& registry, Clock& clock)
    : tasks(registry, {"anneal_worker_tasks", "Tasks on this worker, by state.", {"state"}}),
      slots(registry,
            {"anneal_worker_slots", "Slots of this worker, by use: busy or free.", {"use"}}),
      spares(
          registry,
          {"anneal_worker_spares", "Loaded trainers that wait for a task, one for each slot.", {}}),
      connected(
          registry,
          {"anneal_worker_coordinator_connected", "1 while the coordinator is heard, else 0.", {}}),
      incarnation(registry,
                  {"anneal_worker_incarnation",
                   "Grows with each start of this worker's daemon: microseconds of the clock then.",
                   {}}),
      inventory_failures(registry,
                         {"anneal_worker_inventory_failures_total",
                          "Looks at the machine's GPUs that failed, or found none where some are "
                          "required: the worker lends nothing and looks again.",
                          {}}),
      registry_(registry),
      clock_(clock),
      task_ends_(registry, {"anneal_worker_task_ends_total",
                            "Processes that have ended since the daemon's start, by kind and "
                            "outcome: ok, failed (it said why) or killed.",
                            {"kind", "outcome"}}),
      step_seconds_(registry, {"anneal_rank_step_seconds_total",
                               "Time a trainer has spent, by phase of its steps.",
                               {"job_id", "rank", "phase"}}),
      tokens_(
          registry,
          {"anneal_rank_tokens_total", "Tokens a trainer has computed with.", {"job_id", "rank"}}),
      checkpoint_stall_seconds_(registry,
                                {"anneal_rank_checkpoint_stall_seconds_total",
                                 "Time for which a trainer's steps stood still for checkpoints.",
                                 {"job_id", "rank"}}),
      phase_age_seconds_(registry, {"anneal_rank_phase_age_seconds",
                                    "How long a trainer has been in its present phase.",
                                    {"job_id", "rank"}}),
      step_(registry, {"anneal_rank_step",
                       "Optimizer steps of the job when the trainer last reported.",
                       {"job_id", "rank"}}),
      resident_bytes_(
          registry,
          {"anneal_rank_resident_bytes", "Resident memory of a trainer.", {"job_id", "rank"}}) {
  // Totals that alerts watch begin at 0, so that the first event is a rise.
  inventory_failures.Add(0);
  for (const char* kind : {"prepare", "train"}) {
    for (const char* outcome : {"ok", "failed", "killed"}) task_ends_.Add(0, {kind, outcome});
  }
}

void WorkerMetrics::CountEnd(protocol::TaskKind kind, const internal::TaskExit& exit) {
  const bool ok = exit.signal() == 0 && exit.exit_code() == 0 && exit.status_code() == 0;
  task_ends_.Increment({kind == protocol::TaskKind::kPrepare ? "prepare" : "train",
                        ok                   ? "ok"
                        : exit.signal() != 0 ? "killed"
                                             : "failed"});
}

void WorkerMetrics::Count(const protocol::TaskKey& key, const RankReport& report) {
  expiry_.erase({key.job, key.rank});
  RankReport& before = counted_[key];
  const std::string rank = absl::StrCat(key.rank);
  for (const auto& [phase, seconds] : kPhases) {
    step_seconds_.Add(std::max(0.0, report.*seconds - before.*seconds), {key.job, rank, phase});
  }
  tokens_.Add(std::max<double>(0, report.tokens - before.tokens), {key.job, rank});
  checkpoint_stall_seconds_.Add(
      std::max(0.0, report.checkpoint_stall_seconds - before.checkpoint_stall_seconds),
      {key.job, rank});
  phase_age_seconds_.Set(report.phase_seconds, {key.job, rank});
  step_.Set(report.step, {key.job, rank});
  resident_bytes_.Set(report.resident_bytes, {key.job, rank});
  before = report;
}

void WorkerMetrics::Forget(const protocol::TaskKey& key) {
  if (counted_.erase(key) == 0) return;
  expiry_[{key.job, key.rank}] = clock_.MonotonicNow() + kLinger;
  const bool goes_on = std::any_of(counted_.begin(), counted_.end(), [&key](const auto& other) {
    return other.first.job == key.job && other.first.rank == key.rank;
  });
  if (goes_on) return;
  // Totals stay to be scraped once more; what it was doing is no longer so, and the rank may be on
  // another worker by now.
  const std::string rank = absl::StrCat(key.rank);
  for (Gauge* gauge : {&phase_age_seconds_, &step_, &resident_bytes_})
    gauge->Remove({key.job, rank});
}

void WorkerMetrics::Expire() {
  const absl::Duration now = clock_.MonotonicNow();
  for (auto it = expiry_.begin(); it != expiry_.end();) {
    if (it->second > now) {
      ++it;
      continue;
    }
    const auto& [job, rank] = it->first;
    registry_.RemoveSeries({{"job_id", job}, {"rank", absl::StrCat(rank)}});
    it = expiry_.erase(it);
  }
}

}  // namespace anneal
