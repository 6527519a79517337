#include "common/metrics/sampler.h"

#include <utility>

#include "common/base/log.h"

namespace anneal {

SamplerMetrics::SamplerMetrics(MetricRegistry& registry)
    : last_success(registry, {"anneal_sample_last_success_timestamp_seconds",
                              "When the program last measured something that it looks at now and "
                              "then or, before the first time, when it started, in seconds since "
                              "1970.",
                              {"place"}}) {}

Sampler::Sampler(std::vector<Measurement> measurements, absl::Duration interval,
                 SamplerMetrics& metrics, Clock& clock)
    : measurements_(std::move(measurements)),
      interval_(interval),
      metrics_(metrics),
      clock_(clock) {
  for (const Measurement& measurement : measurements_) {
    MarkSuccess(measurement);
    threads_.emplace_back("sampler", [this, &measurement] { Run(measurement); });
  }
}

Sampler::~Sampler() {
  absl::MutexLock lock(&mu_);
  stopping_ = true;
}

void Sampler::MarkSuccess(const Measurement& measurement) {
  metrics_.last_success.Set(absl::ToDoubleSeconds(clock_.TimeNow() - absl::UnixEpoch()),
                            {measurement.place});
}

void Sampler::Run(const Measurement& measurement) {
  bool stopping = false, failed = false;
  while (!stopping) {
    const absl::Status measured = measurement.measure();
    if (measured.ok()) {
      MarkSuccess(measurement);
    } else if (!failed) {
      ANNEAL_LOG(WARNING) << "cannot measure" << Field("place", measurement.place)
                          << Field("why", measured.message());
    }
    failed = !measured.ok();
    absl::MutexLock lock(&mu_);
    stopping = clock_.AwaitWithTimeout(&mu_, absl::Condition(&stopping_), interval_);
  }
}

}  // namespace anneal
