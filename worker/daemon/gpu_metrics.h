#pragma once
// What the GPUs of a machine do.

#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "common/metrics/metrics.h"
#include "worker/daemon/accelerator_inventory.h"

namespace anneal {

// The table of a worker's GPU metrics; all have the label gpu, the device's UUID. Used from one
// thread.
class GpuMetrics {
 public:
  explicit GpuMetrics(MetricRegistry& registry);

  // Asks the driver. If it does not answer, or has lost a GPU, only the totals stay of what was
  // shown, and the error says why.
  absl::Status Measure(const InventoryOptions& options);

 private:
  Gauge driver_up_;
  Gauge memory_bytes_;
  Gauge used_memory_bytes_;
  Gauge busy_ratio_;
  Gauge temperature_;
  Gauge power_;
  Counter errors_;
  std::set<std::string> shown_;                 // UUIDs
  std::map<std::string, int64_t> errors_seen_;  // by UUID
};

}  // namespace anneal
