#pragma once
// The daemon's wait for accelerators that it was told to have.

#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "anneal/v1/cluster_service.pb.h"
#include "common/base/clock.h"
#include "common/metrics/metrics.h"
#include "worker/daemon/options.h"
#include "worker/daemon/worker_metrics.h"
#include "worker/supervisor/keeper_client.h"

namespace anneal {

// The slots of this machine (FindSlots). Where they cannot be found out, or are not those that
// --require-gpus asks for, looks again every few seconds: drivers come late, and a worker that ends
// over and over says less. Meanwhile there is no registration, and the admin endpoint (with
// `registry`, that holds `metrics`) is not ready and says why. Nothing if the worker was told to
// leave; UNAVAILABLE when the keeper is gone.
absl::StatusOr<std::optional<std::vector<v1::Slot>>> AwaitSlots(const WorkerOptions& options,
                                                                KeeperClient& keeper,
                                                                WorkerMetrics& metrics,
                                                                const MetricRegistry& registry,
                                                                Clock& clock);

}  // namespace anneal
