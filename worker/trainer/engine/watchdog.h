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
class Watchdog {
 public:
  using Callback = std::function<void(const Whereabouts::Position&)>;
  // `tell` is called every second; `hung`, which need not return, once the position's limit has
  // passed.
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
