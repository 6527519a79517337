#pragma once
// Ctrl-C as something to wait for, while a command follows a job.

#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/thread.h"

namespace anneal::cli {

// While one exists, SIGINT and SIGTERM do not end the program but call `on_interrupt` (on a thread
// of its own, once). At most one at a time. Signals sent before or after are the program's own.
class InterruptWatch {
 public:
  explicit InterruptWatch(std::function<void()> on_interrupt);
  ~InterruptWatch();
  InterruptWatch(const InterruptWatch&) = delete;
  InterruptWatch& operator=(const InterruptWatch&) = delete;

  bool interrupted() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void Wait();

  const std::function<void()> on_interrupt_;
  int pipe_[2];
  mutable absl::Mutex mu_;
  bool interrupted_ ABSL_GUARDED_BY(mu_) = false;
  Thread thread_;
};

}  // namespace anneal::cli
