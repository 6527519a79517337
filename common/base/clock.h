#pragma once
// Time as a dependency. Only common/base reads clocks or sleeps; everything else takes a Clock&.
//
// Method names follow newer Abseil's absl::Clock, to be swapped out later.

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace anneal {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;

  // Wall time, for people and records. May jump.
  virtual absl::Time TimeNow() = 0;
  // Time since an arbitrary start that never goes back, for leases, timeouts and measurements.
  virtual absl::Duration MonotonicNow() = 0;
  virtual void Sleep(absl::Duration duration) = 0;
  // Waits with `mu` held (released meanwhile) until `condition` is true or `timeout` has passed;
  // returns condition's value.
  virtual bool AwaitWithTimeout(absl::Mutex* mu, const absl::Condition& condition,
                                absl::Duration timeout) ABSL_SHARED_LOCKS_REQUIRED(mu) = 0;

  // The machine's clock. Never destroyed.
  static Clock& Real();
};

// A clock that stands still until a test moves it. AwaitWithTimeout returns when the condition
// holds or simulated time has passed the deadline. Thread-safe.
class SimulatedClock : public Clock {
 public:
  explicit SimulatedClock(absl::Time start = absl::FromUnixSeconds(1'700'000'000)) : now_(start) {}

  absl::Time TimeNow() override;
  absl::Duration MonotonicNow() override;
  void Sleep(absl::Duration duration) override;
  bool AwaitWithTimeout(absl::Mutex* mu, const absl::Condition& condition,
                        absl::Duration timeout) override ABSL_SHARED_LOCKS_REQUIRED(mu);

  void AdvanceTime(absl::Duration duration);

 private:
  absl::Mutex mu_;
  absl::Time now_ ABSL_GUARDED_BY(mu_);
  absl::Duration elapsed_ ABSL_GUARDED_BY(mu_) = absl::ZeroDuration();
};

}  // namespace anneal
