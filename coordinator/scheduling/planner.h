#pragma once
// The inside of PlacementPolicy: private to this folder.

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/scheduling/placement_policy.h"
#include "coordinator/scheduling/slot_pool.h"

namespace anneal {

// One plan: works on its own copy of the view, in which slots are taken as they are given. Guarded
// by its caller.
class Planner {
 public:
  explicit Planner(ClusterView view);

  // Keeps the last slots of a recovering job for it. To be called for all of them first.
  void Reserve(const WaitingJob& job);
  // Jobs on draining workers that have to leave.
  void MoveFromDraining();
  // To be called in the queue's order.
  void Decide(const WaitingJob& job);
  // Jobs that can have more slots, where nobody waits. Call last.
  void Grow();

  std::vector<Decision> Release() && { return std::move(decisions_); }

 private:
  using Accelerator = v1::ResourceSpec::Accelerator;
  // Worker and slot, by position.
  using SlotIndex = std::pair<int, int>;

  // A slot that only one job may have.
  struct OwnSlot {
    SlotIndex index;
    // An old process of the job is still there; else the slot is merely kept for it.
    bool in_use = false;
  };

  // Slots of one kind.
  struct Kind {
    Kind(Accelerator accelerator, int workers)
        : accelerator(accelerator), good(workers), excluded(workers) {}

    Accelerator accelerator;
    SlotPool good, excluded;    // free slots of ready workers
    int64_t capacity = 0;       // slots of ready workers, free or not
    int64_t good_capacity = 0;  // of those that are not excluded
    // Slots that come free soon: of jobs on their way out, and of processes that nobody wants.
    int64_t leaving = 0;
    bool someone_waits = false;  // the first in the queue has been found
    bool reserved = false;       // and can start soon, so that nobody may use what is free
  };

  Kind& KindOf(Accelerator accelerator);
  // The pool that the worker's free slots of the kind are in.
  SlotPool& PoolOf(Kind& kind, int worker) {
    return view_.workers[worker].excluded ? kind.excluded : kind.good;
  }
  bool IsReady(int worker) const {
    return view_.workers[worker].health == WorkerView::Health::kReady;
  }
  // Makes a slot free for taking, or not.
  void SetFree(SlotIndex index, bool free);
  LifecycleEvent DecidePrepare();
  LifecycleEvent DecideSlots(const WaitingJob& job);
  LifecycleEvent WaitForSlots(const WaitingJob& job, Kind& kind, int64_t free);
  // Whether the job can start once others have left; tells those to leave that have to.
  bool MakeRoom(const WaitingJob& job, const Kind& kind, int64_t free);
  SlotsAssigned Take(Kind& kind, int count, bool use_excluded);
  void TakeFrom(Kind& kind, int worker, int count, SlotsAssigned* assigned);

  // "needs 4 GPU slots"
  static std::string Needs(const WaitingJob& job);
  // ", worker g3 draining, worker g4 away"
  const std::string& Absences();

  ClusterView view_;
  std::map<std::string, int, std::less<>> worker_index_;
  // Whether the slot may be taken, by worker and slot.
  std::vector<std::vector<bool>> free_;
  std::map<std::string, std::vector<OwnSlot>, std::less<>> own_;  // by job
  Kind cpu_, gpu_;
  // Running jobs that have been told to move in this plan.
  std::set<std::string> moved_;
  std::optional<std::string> absences_;
  std::vector<Decision> decisions_;
};

}  // namespace anneal
