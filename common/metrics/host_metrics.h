#pragma once
// What every program shows of itself and of the machine under it.

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/metrics/metrics.h"

namespace anneal {

// Thread-safe.
struct HostMetrics {
  explicit HostMetrics(MetricRegistry& registry);

  // Looks at the file system that holds `folder`, which is called `place` in the metrics. If it
  // cannot be looked at its series go, and the error says why. May block for as long as the file
  // system does: call it from a Sampler.
  absl::Status MeasureFileSystem(absl::string_view place, const std::string& folder);

  Gauge build_info;              // {program, version}
  Gauge file_system_size_bytes;  // {place}, as below
  Gauge file_system_free_bytes;
};

}  // namespace anneal
