#include "coordinator/scheduling/placement_policy.h"

#include <algorithm>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"

namespace anneal {
namespace {

using Accelerator = v1::ResourceSpec::Accelerator;

std::string SlotCount(int64_t count, Accelerator accelerator) {
  return absl::StrCat(count,
                      accelerator == v1::ResourceSpec::ACCELERATOR_GPU ? " GPU slot" : " CPU slot",
                      count == 1 ? "" : "s");
}

// Works on its own copy of the view, in which slots are taken as they are given.
class Planner {
 public:
  explicit Planner(ClusterView view) : view_(std::move(view)) {
    std::sort(view_.workers.begin(), view_.workers.end(),
              [](const WorkerView& a, const WorkerView& b) { return a.name < b.name; });
  }

  LifecycleEvent Decide(const WaitingJob& job) {
    return job.needs_prepare ? DecidePrepare() : DecideSlots(job);
  }

 private:
  LifecycleEvent DecidePrepare() {
    WorkerView* best = nullptr;
    for (WorkerView& worker : view_.workers) {
      if (worker.health != WorkerView::Health::kReady || worker.free_prepare_slots <= 0) continue;
      if (best == nullptr || worker.free_prepare_slots > best->free_prepare_slots) best = &worker;
    }
    if (best == nullptr) {
      if (view_.workers.empty())
        return WaitExplained{"NO_WORKER", "needs a prepare slot, no worker is connected"};
      return WaitExplained{"WAITING_FOR_PREPARE_SLOT",
                           absl::StrCat("needs a prepare slot, 0 free", Absences())};
    }
    --best->free_prepare_slots;
    return PrepareAssigned{best->name};
  }

  LifecycleEvent DecideSlots(const WaitingJob& job) {
    const std::string needs = absl::StrCat("needs ", SlotCount(job.slots, job.accelerator));
    if (view_.workers.empty())
      return WaitExplained{"NO_WORKER", absl::StrCat(needs, ", no worker is connected")};
    int64_t free = 0, usable = 0;
    for (const WorkerView& worker : view_.workers) {
      if (worker.health != WorkerView::Health::kReady) continue;
      free += CountFree(worker, job.accelerator);
      usable += std::count_if(worker.slots.begin(), worker.slots.end(), [&](const SlotView& slot) {
        return slot.accelerator == job.accelerator;
      });
    }
    if (usable < job.slots) {
      return WaitExplained{"NOT_ENOUGH_SLOTS",
                           absl::StrCat(needs, ", the fleet has ", usable, Absences())};
    }
    std::optional<std::string>& holder = first_waiting_[job.accelerator];
    if (holder.has_value()) {
      return WaitExplained{
          "WAITING_FOR_TURN",
          absl::StrCat(needs, ", ", free, " free, kept for jobs/", *holder, ", which came first")};
    }
    if (free < job.slots) {
      holder = job.id;
      return WaitExplained{"WAITING_FOR_SLOTS",
                           absl::StrCat(needs, ", ", free, " free", Absences())};
    }
    return Take(job);
  }

  SlotsAssigned Take(const WaitingJob& job) {
    std::vector<WorkerView*> order;
    for (WorkerView& worker : view_.workers) {
      if (worker.health == WorkerView::Health::kReady && CountFree(worker, job.accelerator) > 0)
        order.push_back(&worker);
    }
    // Workers that hold the whole gang come first, the fullest of them foremost; the others by the
    // most free slots.
    std::stable_sort(order.begin(), order.end(), [&](const WorkerView* a, const WorkerView* b) {
      const int64_t free_a = CountFree(*a, job.accelerator),
                    free_b = CountFree(*b, job.accelerator);
      const bool whole_a = free_a >= job.slots, whole_b = free_b >= job.slots;
      if (whole_a != whole_b) return whole_a;
      return whole_a ? free_a < free_b : free_a > free_b;
    });
    SlotsAssigned assigned;
    for (WorkerView* worker : order) {
      for (SlotView& slot : worker->slots) {
        if (static_cast<int32_t>(assigned.placements.size()) == job.slots) return assigned;
        if (!slot.free || slot.accelerator != job.accelerator) continue;
        slot.free = false;
        assigned.placements.push_back({worker->name, slot.id, slot.device_uuid});
      }
    }
    return assigned;
  }

  static int64_t CountFree(const WorkerView& worker, Accelerator accelerator) {
    return std::count_if(worker.slots.begin(), worker.slots.end(), [&](const SlotView& slot) {
      return slot.free && slot.accelerator == accelerator;
    });
  }

  // ", worker g3 draining, worker g4 away"
  std::string Absences() const {
    std::string text;
    for (const WorkerView& worker : view_.workers) {
      if (worker.health == WorkerView::Health::kDraining)
        absl::StrAppend(&text, ", worker ", worker.name, " draining");
      if (worker.health == WorkerView::Health::kAway)
        absl::StrAppend(&text, ", worker ", worker.name, " away");
    }
    return text;
  }

  ClusterView view_;
  // By kind of accelerator, the first job that waits for slots which the fleet has; it holds up
  // those after it.
  std::map<Accelerator, std::optional<std::string>> first_waiting_;
};

}  // namespace

std::vector<Decision> PlacementPolicy::Plan(const ClusterView& view,
                                            std::vector<WaitingJob> queue) const {
  std::sort(queue.begin(), queue.end(), [](const WaitingJob& a, const WaitingJob& b) {
    return std::tie(a.since, a.id) < std::tie(b.since, b.id);
  });
  Planner planner(view);
  std::vector<Decision> decisions;
  for (const WaitingJob& job : queue) decisions.push_back({job.id, planner.Decide(job)});
  return decisions;
}

}  // namespace anneal
