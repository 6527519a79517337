#include "common/base/clock.h"

#include <chrono>

#include "absl/time/clock.h"

namespace anneal {
namespace {

class RealClock : public Clock {
 public:
  absl::Time TimeNow() override { return absl::Now(); }
  absl::Duration MonotonicNow() override {
    return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
  }
  void Sleep(absl::Duration duration) override { absl::SleepFor(duration); }
  bool AwaitWithTimeout(absl::Mutex* mu, const absl::Condition& condition,
                        absl::Duration timeout) override ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return mu->AwaitWithTimeout(condition, timeout);
  }
};

}  // namespace

Clock& Clock::Real() {
  static RealClock& clock = *new RealClock;
  return clock;
}

absl::Time SimulatedClock::TimeNow() {
  absl::MutexLock lock(&mu_);
  return now_;
}

absl::Duration SimulatedClock::MonotonicNow() {
  absl::MutexLock lock(&mu_);
  return elapsed_;
}

void SimulatedClock::Sleep(absl::Duration duration) {
  const absl::Duration until = MonotonicNow() + duration;
  absl::MutexLock lock(&mu_);
  auto reached = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return elapsed_ >= until; };
  mu_.Await(absl::Condition(&reached));
}

bool SimulatedClock::AwaitWithTimeout(absl::Mutex* mu, const absl::Condition& condition,
                                      absl::Duration timeout) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  // Two locks take part (the caller's and ours), so the wait polls in short real slices; simulated
  // time decides the outcome.
  const absl::Duration until = MonotonicNow() + timeout;
  while (true) {
    if (mu->AwaitWithTimeout(condition, absl::Milliseconds(1))) return true;
    if (MonotonicNow() >= until) return condition.Eval();
  }
}

void SimulatedClock::AdvanceTime(absl::Duration duration) {
  absl::MutexLock lock(&mu_);
  now_ += duration;
  elapsed_ += duration;
}

}  // namespace anneal
