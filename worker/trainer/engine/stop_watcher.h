#pragma once
// Ends the process at once when it is told to stop NOW, wherever its main thread waits; and says
// where that is when asked.

#include <atomic>
#include <functional>

#include "common/base/thread.h"

namespace anneal::trainer {

// A trainer keeps nothing that is worth a farewell: outputs appear by rename, checkpoints too. So a
// stop is no request that every loop and every collective must look out for; a thread of its own,
// "stop", waits for SIGTERM or for the worker's order and leaves. For the same reason it is this
// thread that gets SIGUSR1, an operator's question where a live trainer stands, and writes the
// stacks of all threads to standard error. Owned by main.
class StopWatcher {
 public:
  // Blocks SIGTERM and SIGUSR1 in the calling thread and those it starts, so that only the watcher
  // gets them, and prepares for writing stacks. Call before any thread starts.
  static void BlockSignals();

  // Calls `leave`, which does not return, when SIGTERM has come or `stop_now` is true; it is asked
  // ten times a second.
  StopWatcher(std::function<bool()> stop_now, std::function<void()> leave);
  ~StopWatcher();

 private:
  void Watch();

  const std::function<bool()> stop_now_;
  const std::function<void()> leave_;
  std::atomic<bool> done_ = false;
  Thread thread_;  // last: runs Watch() on the members above
};

}  // namespace anneal::trainer
