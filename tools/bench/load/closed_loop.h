#pragma once
// Calls, some at a time, each begun when another has ended.

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "tools/bench/load/latencies.h"

namespace anneal::load {

// Purpose: keeps `in_flight` calls under way until so many have been made or the time is over, and
// measures each from its start to its status. Guarded by its caller; calls may end on any thread.
class ClosedLoop {
 public:
  struct Limits {
    int in_flight = 1;
    // Calls at first that are made and not measured, while connections and caches are cold.
    int64_t warm_up = 0;
    int64_t calls = 0;  // to measure; 0 = as many as the time allows
    absl::Duration time = absl::InfiniteDuration();
  };
  // Begins call number `number` (from 0) and arranges that `done` is called once at its end.
  using Start = std::function<void(int64_t number, std::function<void(const absl::Status&)> done)>;

  ClosedLoop(const Limits& limits, Clock& clock, Start start)
      : limits_(limits), clock_(clock), start_(std::move(start)) {}

  // {"in_flight", "warm_up", "seconds", "per_second", "errors": {code: count}} and the latencies of
  // the measured calls that ended well; `per_second` counts those alone, and `seconds` is the time
  // from the first of them on.
  Json Run();

 private:
  void Next();
  void Finished(int64_t number, absl::Duration began, const absl::Status& status);

  const Limits limits_;
  Clock& clock_;
  const Start start_;
  absl::Duration end_;

  absl::Mutex mu_;
  int64_t started_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Duration began_ ABSL_GUARDED_BY(mu_);  // the first measured call
  int under_way_ ABSL_GUARDED_BY(mu_) = 0;
  Latencies latencies_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, int64_t> errors_ ABSL_GUARDED_BY(mu_);
};

}  // namespace anneal::load
