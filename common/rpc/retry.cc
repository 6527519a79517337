#include "common/rpc/retry.h"

#include <algorithm>

#include "common/base/status.h"
#include "common/rpc/status.h"

namespace anneal {

absl::Duration Backoff::NextDelay() {
  const absl::Duration delay = bound_ * random_.NextDouble();
  bound_ = std::min(2 * bound_, policy_.max_bound);
  return delay;
}

absl::Status RetryCall(const BackoffPolicy& policy, absl::Duration budget, Clock& clock,
                       Random& random, absl::FunctionRef<absl::Status()> attempt) {
  const absl::Duration end = clock.MonotonicNow() + budget;
  Backoff backoff(policy, random);
  while (true) {
    absl::Status status = attempt();
    if (status.ok() || !IsRetryable(status)) return status;
    const absl::Duration wait =
        std::max(backoff.NextDelay(), RetryDelayOf(status).value_or(absl::ZeroDuration()));
    if (clock.MonotonicNow() + wait >= end) return status;
    clock.Sleep(wait);
  }
}

}  // namespace anneal
