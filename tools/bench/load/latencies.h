#pragma once
// What a measurement says: counts and percentiles.

#include <vector>

#include "absl/time/time.h"
#include "common/format/json.h"

namespace anneal::load {

// Guarded by its caller.
class Latencies {
 public:
  void Add(absl::Duration latency) { milliseconds_.push_back(absl::ToDoubleMilliseconds(latency)); }
  int64_t count() const { return static_cast<int64_t>(milliseconds_.size()); }

  // {"count", "p50_ms", "p99_ms", "max_ms"}; the percentiles are of the nearest rank.
  Json Summary() const;

 private:
  std::vector<double> milliseconds_;
};

}  // namespace anneal::load
