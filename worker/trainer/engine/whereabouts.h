#pragma once
// Where a rank is, so that a hang has a name.

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"

namespace anneal::trainer {

enum class Pace {
  kSteady,    // takes about as long each time, as the parts of a step do
  kUnsteady,  // as long as it takes: loading, export, waiting for a disk
};

// Written by the training thread, read by the watchdog's. Thread-safe.
class Whereabouts {
 public:
  // `on_enter`, if given, is called by Enter.
  using OnEnter = std::function<void(absl::string_view activity, int64_t step)>;
  explicit Whereabouts(Clock& clock, OnEnter on_enter = nullptr);

  void Enter(absl::string_view activity, int64_t step, Pace pace);
  void BeginCollective(absl::string_view tag);
  void EndCollective();

  struct Position {
    std::string activity;
    int64_t step = 0;
    std::string collective;  // under way, else the last one; empty before the first
    int64_t collective_sequence = 0;
    bool in_collective = false;
    absl::Duration since;  // the last of the calls above
    // Longer than this is a hang, of this rank or, inside a collective, of one that it waits for.
    // So long that a rank is replaced within max(10 s, 5 times the longest seen in this activity,
    // the waits in its collectives counted apart); 10 minutes for what was not seen before, and
    // infinite for what has no pace.
    absl::Duration limit;

    bool overdue() const { return since > limit; }
  };
  Position Look() const;

 private:
  // Something has happened: what lasted until now counts for the activity it was part of.
  void Mark() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Clock& clock_;
  const OnEnter on_enter_;

  mutable absl::Mutex mu_;
  Position position_ ABSL_GUARDED_BY(mu_);
  Pace pace_ ABSL_GUARDED_BY(mu_) = Pace::kUnsteady;
  absl::Duration last_mark_ ABSL_GUARDED_BY(mu_);
  // By activity: of its own work, and of a wait in one of its collectives.
  std::map<std::string, absl::Duration> longest_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, absl::Duration> longest_wait_ ABSL_GUARDED_BY(mu_);
};

// "in backward of step 12 for 14.2s, after collective 345 'reduce layers.7 step 11'"
std::string Describe(const Whereabouts::Position& position);

}  // namespace anneal::trainer
