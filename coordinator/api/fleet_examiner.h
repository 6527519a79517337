#pragma once
// ClusterService.CheckFleet: a look over the whole fleet.

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "anneal/v1/cluster_service.pb.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/storage/storage_root.h"
#include "coordinator/fleet/fleet_roster.h"
#include "coordinator/fleet/fleet_session.h"

namespace anneal {

// Purpose: asks all workers at once through their desired state (internal.Examination), does the
// coordinator's own part, which is the storage, and puts together what they tell. Owner:
// Coordinator. Thread-safe.
class FleetExaminer {
 public:
  struct Parts {
    const FleetRoster& roster;
    FleetInbox& inbox;
    StorageRoot& storage;
    Clock& clock;
    Random& random;
  };
  struct Patience {
    // With the workers, for each half of the examination. A worker may try five links in vain, 3 s
    // each, and look for marks for 10 s.
    absl::Duration answers = absl::Seconds(40);
    // With what the workers have written: a shared file system may show that late.
    absl::Duration marks = absl::Seconds(10);
  };
  explicit FleetExaminer(const Parts& parts) : FleetExaminer(parts, Patience{}) {}
  FleetExaminer(const Parts& parts, const Patience& patience)
      : parts_(parts), patience_(patience) {}

  // Blocks until it is over, some seconds, or `cancelled` returns true, which is asked a few times
  // a second. ABORTED while another one is under way, CANCELLED.
  absl::StatusOr<v1::CheckFleetResponse> Examine(const std::function<bool()>& cancelled);

 private:
  class Round;

  const Parts parts_;
  const Patience patience_;
  std::atomic<bool> busy_ = false;
};

}  // namespace anneal
