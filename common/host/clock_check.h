#pragma once
// How far two machines' clocks are apart.

#include "absl/time/time.h"
#include "anneal/v1/cluster_service.pb.h"

namespace anneal {

// What messages tell of another machine's clock: how far it is ahead of ours, between two bounds.
// No message takes less than no time, so one that comes in bounds it from below, and one that went
// out from above; the fastest of each count.
class ClockBounds {
 public:
  // A message was sent at `ours` by our clock and read at `theirs` by the other's.
  void SentAt(absl::Time ours, absl::Time theirs);
  // A message was sent at `theirs` and read at `ours`.
  void ReceivedAt(absl::Time ours, absl::Time theirs);

  // Failed or a warning only for what the bounds leave no doubt about. `reference` is whose clock
  // ours is, for the text: "the coordinator".
  v1::Check ToCheck(absl::string_view reference) const;

 private:
  absl::Duration at_least_ = -absl::InfiniteDuration();
  absl::Duration at_most_ = absl::InfiniteDuration();
};

}  // namespace anneal
