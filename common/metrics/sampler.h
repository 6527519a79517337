#pragma once
// Measures now and then what nobody reports.

#include <functional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/thread.h"
#include "common/metrics/metrics.h"

namespace anneal {

// Thread-safe.
struct SamplerMetrics {
  explicit SamplerMetrics(MetricRegistry& registry);
  Gauge last_success;  // {place}
};

// Something to look at, which may take for ever: a file system that hangs, a driver.
struct Measurement {
  std::string place;  // names it in metrics and logs
  std::function<absl::Status()> measure;
};

// Makes each measurement once at the start and then every `interval`, on a thread of its own: one
// that hangs holds up neither decisions and probes nor the other measurements. How old each is
// shows in the metrics. Its destructor waits for the measurements under way.
class Sampler {
 public:
  // What the measurements touch, `metrics` and `clock` must outlive the sampler.
  Sampler(std::vector<Measurement> measurements, absl::Duration interval, SamplerMetrics& metrics,
          Clock& clock);
  ~Sampler();

 private:
  void Run(const Measurement& measurement);
  void MarkSuccess(const Measurement& measurement);

  const std::vector<Measurement> measurements_;
  const absl::Duration interval_;
  SamplerMetrics& metrics_;
  Clock& clock_;
  absl::Mutex mu_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  // Last, so that they have ended before anything above goes.
  std::vector<Thread> threads_;
};

}  // namespace anneal
