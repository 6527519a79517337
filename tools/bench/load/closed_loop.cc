#include "tools/bench/load/closed_loop.h"

#include <algorithm>
#include <utility>

namespace anneal::load {

Json ClosedLoop::Run() {
  end_ = clock_.MonotonicNow() + limits_.time;
  for (int i = 0; i < limits_.in_flight; ++i) Next();
  absl::MutexLock lock(&mu_);
  const auto over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return under_way_ == 0; };
  mu_.Await(absl::Condition(&over));
  const double seconds = absl::ToDoubleSeconds(clock_.MonotonicNow() - began_);
  Json report = latencies_.Summary();
  report["in_flight"] = limits_.in_flight;
  report["warm_up"] = std::min(limits_.warm_up, started_);
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
    if (now >= end_ || (limits_.calls > 0 && started_ >= limits_.warm_up + limits_.calls)) return;
    number = started_++;
    if (number == limits_.warm_up) began_ = now;
    ++under_way_;
  }
  start_(number,
         [this, number, now](const absl::Status& status) { Finished(number, now, status); });
}

void ClosedLoop::Finished(int64_t number, absl::Duration began, const absl::Status& status) {
  const absl::Duration latency = clock_.MonotonicNow() - began;
  {
    absl::MutexLock lock(&mu_);
    if (!status.ok()) {
      ++errors_[status.ToString()];
    } else if (number >= limits_.warm_up) {
      latencies_.Add(latency);
    }
  }
  // The next begins before this one counts as over, or Run could return between the two.
  Next();
  absl::MutexLock lock(&mu_);
  --under_way_;
}

}  // namespace anneal::load
