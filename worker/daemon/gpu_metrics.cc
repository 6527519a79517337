#include "worker/daemon/gpu_metrics.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/host/nvml.h"

namespace anneal {

GpuMetrics::GpuMetrics(MetricRegistry& registry)
    : driver_up_(registry,
                 {"anneal_gpu_driver_up",
                  "1 while the NVIDIA driver answers, or none is installed; 0 once it fails.",
                  {}}),
      memory_bytes_(registry, {"anneal_gpu_memory_bytes", "Memory of a GPU.", {"gpu"}}),
      used_memory_bytes_(registry, {"anneal_gpu_used_memory_bytes",
                                    "Memory of a GPU that is in use, by any process.",
                                    {"gpu"}}),
      busy_ratio_(registry, {"anneal_gpu_busy_ratio",
                             "Part of the driver's last sampling period in which a kernel ran.",
                             {"gpu"}}),
      temperature_(registry, {"anneal_gpu_temperature_celsius", "Temperature of a GPU.", {"gpu"}}),
      power_(registry, {"anneal_gpu_power_watts", "Power that a GPU draws.", {"gpu"}}),
      errors_(registry, {"anneal_gpu_uncorrected_errors_total",
                         "Memory errors of a GPU that its error correction could not mend, since "
                         "the driver was loaded.",
                         {"gpu"}}) {}

absl::Status GpuMetrics::Measure(const InventoryOptions& options) {
  if (!options.use_gpus) {
    driver_up_.Set(1);
    return absl::OkStatus();
  }
  const absl::StatusOr<std::vector<GpuReading>> readings = ReadGpus(options.nvml_library);
  driver_up_.Set(readings.ok() ? 1 : 0);
  std::set<std::string> gone = std::exchange(shown_, {});
  if (readings.ok()) {
    for (const GpuReading& gpu : *readings) {
      gone.erase(gpu.uuid);
      shown_.insert(gpu.uuid);
    }
  }
  for (const std::string& uuid : gone) {
    for (Gauge* gauge : {&memory_bytes_, &used_memory_bytes_, &busy_ratio_, &temperature_, &power_})
      gauge->Remove({uuid});
  }
  if (!readings.ok()) return readings.status();
  for (const GpuReading& gpu : *readings) {
    memory_bytes_.Set(static_cast<double>(gpu.memory_bytes), {gpu.uuid});
    used_memory_bytes_.Set(static_cast<double>(gpu.used_memory_bytes), {gpu.uuid});
    if (gpu.busy_ratio.has_value()) busy_ratio_.Set(*gpu.busy_ratio, {gpu.uuid});
    if (gpu.temperature_celsius.has_value()) temperature_.Set(*gpu.temperature_celsius, {gpu.uuid});
    if (gpu.power_watts.has_value()) power_.Set(*gpu.power_watts, {gpu.uuid});
    if (!gpu.uncorrected_errors.has_value()) continue;
    int64_t& seen = errors_seen_[gpu.uuid];
    // A driver that was loaded again counts from 0; the total goes on.
    errors_.Add(static_cast<double>(std::max<int64_t>(0, *gpu.uncorrected_errors - seen)),
                {gpu.uuid});
    seen = *gpu.uncorrected_errors;
  }
  return absl::OkStatus();
}

}  // namespace anneal
