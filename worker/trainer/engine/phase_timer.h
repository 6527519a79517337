#pragma once
// Where a rank's time goes.

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "worker/trainer/engine/accelerator.h"
#include "worker/trainer/engine/whereabouts.h"

namespace anneal::trainer {

// A stopwatch with laps: each goes to one of RankReport's counters. Guarded by its caller.
class PhaseTimer {
 public:
  PhaseTimer(Clock& clock, Accelerator& accelerator, Whereabouts& whereabouts)
      : clock_(clock),
        accelerator_(accelerator),
        whereabouts_(whereabouts),
        last_(clock.MonotonicNow()) {}

  // What the time from now on goes to.
  void Enter(absl::string_view activity, int64_t step) {
    whereabouts_.Enter(activity, step, Pace::kSteady);
  }

  // Adds the time since the last lap to `seconds`, when the device has done what was queued;
  // returns it.
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
  Whereabouts& whereabouts_;
  absl::Duration last_;
};

}  // namespace anneal::trainer
