#pragma once
// Measures now and then what nobody reports.

#include <functional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/thread.h"

namespace anneal {

// Calls each measurement once at the start and then every `interval`, in order, on a thread of its
// own: looking at a shared file system that hangs may take for ever, and must hold up neither
// decisions nor probes. Its destructor waits for the measurement under way.
class Sampler {
 public:
  // What the measurements touch and `clock` must outlive the sampler.
  Sampler(std::vector<std::function<void()>> measurements, absl::Duration interval, Clock& clock);
  ~Sampler();

 private:
  void Run();

  const std::vector<std::function<void()>> measurements_;
  const absl::Duration interval_;
  Clock& clock_;
  absl::Mutex mu_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  // Last, so that it has ended before anything above goes.
  Thread thread_;
};

}  // namespace anneal
