#pragma once
// What a worker shows to Prometheus about itself and its trainers.

#include <map>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "anneal/internal/fleet_service.pb.h"
#include "common/base/clock.h"
#include "common/metrics/metrics.h"
#include "common/protocol/messages.h"
#include "common/protocol/run_folder_layout.h"

namespace anneal {

// The table of this folder's metrics, and the sums behind the counters. Used from the daemon's loop
// only.
class WorkerMetrics {
 public:
  WorkerMetrics(MetricRegistry& registry, Clock& clock);

  // The seconds and tokens that a trainer has counted since its start. They grow in the report; a
  // new generation starts again from zero and the totals go on.
  void Count(const protocol::TaskKey& key, const protocol::RankReport& report);
  // The task is gone: its rank's series follow 5 minutes after it, so that final values are
  // scraped, unless a later generation of the job has that rank here again.
  void Forget(const protocol::TaskKey& key);
  // A process has ended.
  void CountEnd(protocol::TaskKind kind, const internal::TaskExit& exit);
  // Removes the series whose time has come. Call now and then.
  void Expire();

  Gauge tasks;  // by state
  Gauge slots;  // by use
  Gauge spares;
  Gauge connected;
  Gauge incarnation;
  Counter inventory_failures;

 private:
  MetricRegistry& registry_;
  Clock& clock_;
  Counter task_ends_;
  Counter step_seconds_;
  Counter tokens_;
  Counter checkpoint_stall_seconds_;
  Gauge phase_age_seconds_;
  Gauge step_;
  Gauge resident_bytes_;
  std::map<protocol::TaskKey, protocol::RankReport> counted_;
  using JobRank = std::pair<std::string, int>;
  std::map<JobRank, absl::Duration> expiry_;
};

}  // namespace anneal
