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
  // The job whose process has the slot, wanted or not. Empty = free.
  std::string holder;
};
struct WorkerView {
  // Only READY workers get new tasks; the slots of the others do not count as free.
  enum class Health { kReady, kDraining, kAway };

  std::string name;
  Health health = Health::kReady;
  // Trainers have died there again and again: for jobs that fit nowhere else.
  bool excluded = false;
  std::vector<SlotView> slots;
  int32_t free_prepare_slots = 0;
};

// The order in which jobs are served: higher priority first, then who came first, then by id.
struct QueuePlace {
  v1::JobSpec::Priority priority = v1::JobSpec::PRIORITY_NORMAL;
  absl::Time since;
  std::string id;

  bool operator<(const QueuePlace& other) const;
};

// A job with trainers.
struct RunningJob {
  QueuePlace place;
  std::vector<Placement> placements;
  v1::ResourceSpec::Accelerator accelerator = v1::ResourceSpec::ACCELERATOR_CPU;
  int32_t max_slots = 1;
  // It may be told to stop with a checkpoint and to go on elsewhere.
  bool movable = false;
  // It is on its way out: its slots come free soon.
  bool leaving = false;
  // It has run for long enough to be worth starting again with more slots.
  bool may_grow = false;
};

struct WaitingJob {
  QueuePlace place;
  // Since when it waits this time: later than place.since, if it has had slots in between.
  absl::Time waits_since;
  // Waits for a prepare slot (PENDING); else for accelerator slots (QUEUED, RECOVERING).
  bool needs_prepare = false;
  // It gets a power of two of slots from min_slots to max_slots: as many as are free.
  int32_t min_slots = 1;
  int32_t max_slots = 1;
  v1::ResourceSpec::Accelerator accelerator = v1::ResourceSpec::ACCELERATOR_CPU;
  // It is recovering: these slots, its last, are kept for it, and it comes before all others.
  std::vector<Placement> kept;
  bool recovering = false;
};

struct ClusterView {
  std::vector<WorkerView> workers;
  std::vector<RunningJob> running;
};

// What the plan means for one job: PrepareAssigned, SlotsAssigned or WaitExplained for a waiting
// one, MoveRequired for a running one.
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
// Nobody starves: slots that come free go to the first in the queue that the fleet could hold when
// idle. Others may use them meanwhile (backfill), and are moved out, as jobs of lower priority are,
// as soon as the first can start with theirs: a running job gives way to a waiting one that stands
// before it in the queue's order, never the other way round.
//
// Jobs on a draining worker move as a whole. Elastic jobs grow when nobody waits.
class PlacementPolicy {
 public:
  // One decision for each job of the queue, and those for running jobs that have to move.
  std::vector<Decision> Plan(const ClusterView& view, std::vector<WaitingJob> queue) const;
};

}  // namespace anneal
