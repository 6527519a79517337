#pragma once
// Time, chance and faults of one simulated run.

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/base/sha256.h"

namespace anneal::simulation {

// Single-threaded: things happen one after another, at simulated times, in an order that the seed
// alone decides.
class World {
 public:
  explicit World(uint64_t seed) : random_(seed) {}

  SimulatedClock& clock() { return clock_; }
  absl::Time now() { return clock_.TimeNow(); }
  absl::Duration elapsed() { return clock_.MonotonicNow(); }

  uint64_t Below(uint64_t limit) { return random_.Next() % limit; }
  bool Chance(double probability) { return random_.NextDouble() < probability; }
  absl::Duration Between(absl::Duration least, absl::Duration most) {
    return least + (most - least) * random_.NextDouble();
  }

  void After(absl::Duration delay, std::function<void()> what) {
    queue_.emplace(elapsed() + delay, std::move(what));
  }
  // Until nothing is left to happen, `done` says so, or `end` has come.
  void Run(absl::Duration end, const std::function<bool()>& done) {
    while (!queue_.empty() && !done()) {
      const auto next = queue_.begin();
      if (next->first > end) return;
      if (next->first > elapsed()) clock_.AdvanceTime(next->first - elapsed());
      const std::function<void()> what = std::move(next->second);
      queue_.erase(next);
      what();
    }
  }

  // What happened, for comparing two runs of one seed.
  void Trace(const std::string& line) {
    trace_.Update(absl::FormatDuration(elapsed()));
    trace_.Update(line);
    if (listener_) listener_(line);
  }
  std::string TraceHash() { return trace_.HexDigest(); }
  void ListenToTrace(std::function<void(const std::string&)> listener) {
    listener_ = std::move(listener);
  }

 private:
  SimulatedClock clock_;
  SeededRandom random_;
  // Of equal times the first one in goes first.
  std::multimap<absl::Duration, std::function<void()>> queue_;
  Sha256 trace_;
  std::function<void(const std::string&)> listener_;
};

}  // namespace anneal::simulation
