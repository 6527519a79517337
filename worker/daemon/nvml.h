#pragma once
// NVIDIA's management library (docs.nvidia.com/deploy/nvml-api), loaded at run time: no build or
// start needs a driver.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace anneal {

struct GpuDevice {
  std::string uuid;  // "GPU-8f6d..."
  std::string name;
  int64_t memory_bytes = 0;
};

// All GPUs that the driver shows. Empty when `library` is not installed; an error when it is and
// does not work.
absl::StatusOr<std::vector<GpuDevice>> ListGpus(const std::string& library);

}  // namespace anneal
