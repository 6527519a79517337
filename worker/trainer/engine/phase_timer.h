#pragma once
// Where a rank's time goes.

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "worker/trainer/engine/accelerator.h"

namespace anneal::trainer {

// A stopwatch with laps: each goes to one of RankReport's counters. Guarded by its caller.
class PhaseTimer {
 public:
  PhaseTimer(Clock& clock, Accelerator& accelerator)
      : clock_(clock), accelerator_(accelerator), last_(clock.MonotonicNow()) {}

  // Adds the time since the last lap to `seconds`, when the device has done what was queued; returns it.
  double Lap(double& seconds) {
    accelerator_.Synchronize();
    const absl::Duration now = clock_.MonotonicNow();
    const double lap = absl::ToDoubleSeconds(now - last_);
    last_ = now;
    seconds += lap;
    return lap;
  }

 private:
  Clock& clock_;
  Accelerator& accelerator_;
  absl::Duration last_;
};

}  // namespace anneal::trainer
