#pragma once
// Who runs where: pure, the same input gives the same plan.

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "anneal/v1/job.pb.h"
#include "coordinator/lifecycle/lifecycle_event.h"

namespace anneal {

// The fleet at one moment.
struct SlotView {
  std::string id;
  v1::ResourceSpec::Accelerator accelerator = v1::ResourceSpec::ACCELERATOR_CPU;
  std::string device_uuid;
  bool free = true;
};
struct WorkerView {
  // Only READY workers get new tasks; the slots of the others do not count as free.
  enum class Health { kReady, kDraining, kAway };

  std::string name;
  Health health = Health::kReady;
  std::vector<SlotView> slots;
  int32_t free_prepare_slots = 0;
};
struct ClusterView {
  std::vector<WorkerView> workers;
};

struct WaitingJob {
  std::string id;
  // Jobs are served in the order of this time, then of id.
  absl::Time since;
  // Waits for a prepare slot (PENDING); else for `slots` accelerator slots (QUEUED).
  bool needs_prepare = false;
  int32_t slots = 1;
  v1::ResourceSpec::Accelerator accelerator = v1::ResourceSpec::ACCELERATOR_CPU;
};

// What the plan means for one job: PrepareAssigned, SlotsAssigned or WaitExplained.
struct Decision {
  std::string job;
  LifecycleEvent event;
};

// Purpose: gives prepare slots one by one, and accelerator slots all at once or not at all (a
// gang). Thread-safe.
//
// Ranks are contiguous on each worker. A gang goes to the one worker that it fills best, if it fits
// on one; else to the workers with the most free slots, so that it spans few.
//
// Nobody starves: among jobs that want the same kind of accelerator, none starts before an earlier
// one that the connected fleet could hold when idle; slots that come free are kept for it. A job
// too large even for the idle fleet holds nobody up.
class PlacementPolicy {
 public:
  // One decision for each job of the queue.
  std::vector<Decision> Plan(const ClusterView& view, std::vector<WaitingJob> queue) const;
};

}  // namespace anneal
