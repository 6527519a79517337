#pragma once
// ClusterService.CheckFleet: a look over the whole fleet.

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "anneal/internal/fleet_service.pb.h"
#include "anneal/v1/cluster_service.pb.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/storage/storage_root.h"
#include "coordinator/fleet/fleet_roster.h"
#include "coordinator/fleet/fleet_session.h"

namespace anneal {

// Purpose: asks all workers at once through their desired state (internal.Examination), step by
// step, does the coordinator's own part, which is the storage, and puts together what they tell. A
// worker that does not do a step in time takes no part in the next. Owner: Coordinator.
// Thread-safe.
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
    // With the workers, for each step. A worker may take a minute to load all of CUDA.
    absl::Duration answers = absl::Seconds(75);
    // With each round of links. Each of a pair's trainers may take a minute.
    absl::Duration links = absl::Seconds(150);
    // With what the workers have written: a shared file system may show that late.
    absl::Duration marks = absl::Seconds(10);
  };
  explicit FleetExaminer(const Parts& parts) : FleetExaminer(parts, Patience{}) {}
  FleetExaminer(const Parts& parts, const Patience& patience)
      : parts_(parts), patience_(patience) {}

  // Blocks until it is over, some seconds for each round of links, or `cancelled` returns true,
  // which is asked a few times a second. ABORTED while another one is under way, CANCELLED.
  absl::StatusOr<v1::CheckFleetResponse> Examine(const v1::CheckFleetRequest& request,
                                                 const std::function<bool()>& cancelled);

 private:
  class Round;

  // The coordinator's part of the steps about the storage, and the workers' beside it.
  absl::Status CompareStorage(const std::shared_ptr<Round>& round,
                              const std::function<bool()>& cancelled,
                              std::vector<v1::Check>& checks);
  absl::Status MeasureLinks(const std::shared_ptr<Round>& round, bool all_pairs,
                            const std::function<bool()>& cancelled);
  // Lets those who take part do a step.
  void Want(const std::shared_ptr<Round>& round,
            std::map<std::string, internal::Examination> wanted);

  const Parts parts_;
  const Patience patience_;
  std::atomic<bool> busy_ = false;
};

}  // namespace anneal
