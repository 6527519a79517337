#include "tools/bench/load/closed_loop.h"

#include <utility>

namespace anneal::load {

Json ClosedLoop::Run() {
  const absl::Duration began = clock_.MonotonicNow();
  end_ = began + limits_.time;
  for (int i = 0; i < limits_.in_flight; ++i) Next();
  absl::MutexLock lock(&mu_);
  const auto over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return under_way_ == 0; };
  mu_.Await(absl::Condition(&over));
  const double seconds = absl::ToDoubleSeconds(clock_.MonotonicNow() - began);
  Json report = latencies_.Summary();
  report["in_flight"] = limits_.in_flight;
  report["seconds"] = seconds;
  report["per_second"] = static_cast<double>(latencies_.count()) / seconds;
  report["errors"] = errors_;
  return report;
}

void ClosedLoop::Next() {
  int64_t number = 0;
  const absl::Duration now = clock_.MonotonicNow();
  {
    absl::MutexLock lock(&mu_);
    if (now >= end_ || (limits_.calls > 0 && started_ >= limits_.calls)) return;
    number = started_++;
    ++under_way_;
  }
  start_(number, [this, now](const absl::Status& status) { Finished(now, status); });
}

void ClosedLoop::Finished(absl::Duration began, const absl::Status& status) {
  const absl::Duration latency = clock_.MonotonicNow() - began;
  {
    absl::MutexLock lock(&mu_);
    if (status.ok()) {
      latencies_.Add(latency);
    } else {
      ++errors_[status.ToString()];
    }
  }
  // The next begins before this one counts as over, or Run could return between the two.
  Next();
  absl::MutexLock lock(&mu_);
  --under_way_;
}

}  // namespace anneal::load
