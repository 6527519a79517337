#pragma once
// Tells once a second where the training thread is, and when it hangs.

#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "common/base/thread.h"
#include "worker/trainer/engine/whereabouts.h"

namespace anneal::trainer {

// A thread of its own, "watchdog", which waits for nothing that the training thread holds. Owned by
// main.
//
// Surprising: a training thread that is overdue inside a collective is told of, and not taken for
// hung. It may wait for another rank; which one hangs is known to the coordinator, which hears of
// all.
class Watchdog {
 public:
  using Callback = std::function<void(const Whereabouts::Position&)>;
  // `tell` is called every second; `hung`, which need not return, once the position is overdue
  // outside a collective.
  Watchdog(Clock& clock, const Whereabouts& whereabouts, Callback tell, Callback hung);
  ~Watchdog();

 private:
  void Watch();

  Clock& clock_;
  const Whereabouts& whereabouts_;
  const Callback tell_, hung_;
  absl::Mutex mu_;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
  Thread thread_;  // last: runs Watch() on the members above
};

}  // namespace anneal::trainer
