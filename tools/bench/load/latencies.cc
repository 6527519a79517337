#include "tools/bench/load/latencies.h"

#include <algorithm>
#include <cmath>

namespace anneal::load {

Json Latencies::Summary() const {
  std::vector<double> sorted = milliseconds_;
  std::sort(sorted.begin(), sorted.end());
  const auto percentile = [&sorted](double share) {
    if (sorted.empty()) return 0.0;
    const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(sorted.size())));
    return sorted[std::max<size_t>(rank, 1) - 1];
  };
  Json summary;
  summary["count"] = sorted.size();
  summary["p50_ms"] = percentile(0.5);
  summary["p99_ms"] = percentile(0.99);
  summary["max_ms"] = percentile(1);
  return summary;
}

}  // namespace anneal::load
