#pragma once
// What every program shows of itself and of the machine under it.

#include <string>

#include "absl/strings/string_view.h"
#include "common/metrics/metrics.h"

namespace anneal {

// Thread-safe.
struct HostMetrics {
  explicit HostMetrics(MetricRegistry& registry);

  // Looks at the file system that holds `folder`, which is called `place` in the metrics. Its
  // series stay as they were if it cannot be looked at. May block for as long as the file system
  // does: call it from a Sampler.
  void MeasureFileSystem(absl::string_view place, const std::string& folder);

  Gauge build_info;              // {program, version}
  Gauge file_system_size_bytes;  // {place}, as below
  Gauge file_system_free_bytes;
};

}  // namespace anneal
