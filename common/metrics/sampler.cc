#include "common/metrics/sampler.h"

#include <utility>

namespace anneal {

Sampler::Sampler(std::vector<std::function<void()>> measurements, absl::Duration interval,
                 Clock& clock)
    : measurements_(std::move(measurements)),
      interval_(interval),
      clock_(clock),
      thread_("sampler", [this] { Run(); }) {}

Sampler::~Sampler() {
  absl::MutexLock lock(&mu_);
  stopping_ = true;
}

void Sampler::Run() {
  bool stopping = false;
  while (!stopping) {
    for (const auto& measure : measurements_) measure();
    absl::MutexLock lock(&mu_);
    stopping = clock_.AwaitWithTimeout(&mu_, absl::Condition(&stopping_), interval_);
  }
}

}  // namespace anneal
