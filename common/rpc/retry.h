#pragma once
// Waiting between attempts, with full jitter: each wait is uniform in [0, bound), the bound
// doubling up to a maximum. Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture
// Blog, 2015.

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/random.h"

namespace anneal {

struct BackoffPolicy {
  absl::Duration first_bound = absl::Milliseconds(100);
  absl::Duration max_bound = absl::Seconds(10);
};

// Guarded by its caller.
class Backoff {
 public:
  Backoff(const BackoffPolicy& policy, Random& random)
      : policy_(policy), random_(random), bound_(policy.first_bound) {}

  absl::Duration NextDelay();
  // After a success.
  void Reset() { bound_ = policy_.first_bound; }

 private:
  const BackoffPolicy policy_;
  Random& random_;
  absl::Duration bound_;
};

// Calls `attempt` until it succeeds, fails with a status that is not retryable, or `budget` would
// be passed by the next wait; returns the last status. A RetryInfo in a status lengthens the wait.
// Only for calls that may safely be made twice.
absl::Status RetryCall(const BackoffPolicy& policy, absl::Duration budget, Clock& clock,
                       Random& random, absl::FunctionRef<absl::Status()> attempt);

}  // namespace anneal
