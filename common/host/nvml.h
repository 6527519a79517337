#pragma once
// NVIDIA's management library (docs.nvidia.com/deploy/nvml-api), loaded at run time: no build or
// start needs a driver.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace anneal {

struct GpuDevice {
  std::string uuid;  // "GPU-8f6d..."
  std::string name;
  int64_t memory_bytes = 0;
  // Those of the NUMA node that the device hangs on, ascending. Empty if the driver cannot tell.
  std::vector<int> near_processors;
};

// What a GPU does now. A number that the device does not know (parts of one often do not) is
// absent.
struct GpuReading {
  std::string uuid;
  int64_t memory_bytes = 0, used_memory_bytes = 0;
  std::optional<double> busy_ratio;  // part of the last sampling period with a kernel running
  std::optional<double> temperature_celsius, power_watts;
  std::optional<int64_t> uncorrected_errors;  // of memory, since the driver was loaded
};

struct GpuDriver {
  std::string version;   // "580.65.06"
  int cuda_version = 0;  // the newest CUDA that it runs: 13000 is 13.0
};

// Why `library` cannot be loaded, in the loader's words; empty if it can.
std::string WhyNotLoaded(const std::string& library);
// The driver; nothing when `library` is not installed; an error when it is and does not work.
absl::StatusOr<std::optional<GpuDriver>> ReadGpuDriver(const std::string& library);
// All GPUs that the driver shows. Empty when `library` is not installed; an error when it is and
// does not work.
absl::StatusOr<std::vector<GpuDevice>> ListGpus(const std::string& library);
absl::StatusOr<std::vector<GpuReading>> ReadGpus(const std::string& library);

}  // namespace anneal
