#pragma once
// When to have the keeper load a spare trainer, and for what.

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "worker/supervisor/keeper_link.h"

namespace anneal {

// One spare for each slot, made for a trainer like the slot's last one: after a fault the next
// generation finds it fitting. Loading takes processor time that a trainer on its way to its first
// step needs more, so it waits until there is none. Used from the daemon's loop only.
class SparePolicy {
 public:
  // `first`: what to keep for slots that have not run anything yet.
  explicit SparePolicy(const std::vector<SpareRequest>& first);

  // A trainer with this image was started on the slot, which takes the spare, if it fits.
  void Started(const std::string& slot, const ProcessImage& image);

  // What to ask the keeper for now. `present`: slots that have a spare; `warming_up`: whether a
  // trainer here has not come to its first step. A spare that does not appear, or dies, is asked
  // for again, but not at once.
  std::vector<SpareRequest> Due(const std::set<std::string>& present, bool warming_up,
                                absl::Duration now);

 private:
  struct Slot {
    ProcessImage wanted;
    ProcessImage asked;  // the last time
    absl::Duration not_before = -absl::InfiniteDuration();
  };
  std::map<std::string, Slot> slots_;
};

}  // namespace anneal
