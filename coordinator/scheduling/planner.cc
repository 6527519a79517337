#include "coordinator/scheduling/planner.h"

#include <algorithm>
#include <variant>

#include "absl/strings/str_cat.h"

namespace anneal {
namespace {

// An absence list names so many workers.
constexpr int kMaxNamed = 5;

std::string SlotCount(int64_t count, v1::ResourceSpec::Accelerator accelerator) {
  return absl::StrCat(count,
                      accelerator == v1::ResourceSpec::ACCELERATOR_GPU ? " GPU slot" : " CPU slot",
                      count == 1 ? "" : "s");
}

// The largest power of two times `min` that is at most `max` and `available`.
int LargestGang(int min, int max, int64_t available) {
  int count = min;
  while (count * 2 <= max && count * 2 <= available) count *= 2;
  return count;
}

}  // namespace

Planner::Planner(ClusterView view)
    : view_(std::move(view)),
      cpu_(v1::ResourceSpec::ACCELERATOR_CPU, static_cast<int>(view_.workers.size())),
      gpu_(v1::ResourceSpec::ACCELERATOR_GPU, static_cast<int>(view_.workers.size())) {
  std::sort(view_.workers.begin(), view_.workers.end(),
            [](const WorkerView& a, const WorkerView& b) { return a.name < b.name; });
  std::set<absl::string_view> staying;
  for (const RunningJob& job : view_.running) {
    if (!job.leaving) staying.insert(job.place.id);
  }
  for (int w = 0; w < static_cast<int>(view_.workers.size()); ++w) {
    const WorkerView& worker = view_.workers[w];
    worker_index_[worker.name] = w;
    free_.emplace_back(worker.slots.size(), false);
    for (int s = 0; s < static_cast<int>(worker.slots.size()); ++s) {
      const SlotView& slot = worker.slots[s];
      if (!slot.holder.empty()) own_[slot.holder].push_back({{w, s}, true});
      if (!IsReady(w)) continue;
      Kind& kind = KindOf(slot.accelerator);
      ++kind.capacity;
      kind.leaving += !slot.holder.empty() && staying.count(slot.holder) == 0;
      kind.good_capacity += !worker.excluded;
      if (slot.holder.empty()) SetFree({w, s}, true);
    }
  }
}

Planner::Kind& Planner::KindOf(Accelerator accelerator) {
  return accelerator == v1::ResourceSpec::ACCELERATOR_GPU ? gpu_ : cpu_;
}

void Planner::SetFree(SlotIndex index, bool free) {
  const auto [worker, slot] = index;
  if (!IsReady(worker) || free_[worker][slot] == free) return;
  free_[worker][slot] = free;
  PoolOf(KindOf(view_.workers[worker].slots[slot].accelerator), worker).Add(worker, free ? 1 : -1);
}

void Planner::Reserve(const WaitingJob& job) {
  for (const Placement& kept : job.kept) {
    const auto worker = worker_index_.find(kept.worker);
    if (worker == worker_index_.end()) continue;
    const std::vector<SlotView>& slots = view_.workers[worker->second].slots;
    for (int s = 0; s < static_cast<int>(slots.size()); ++s) {
      if (slots[s].id != kept.slot_id || !free_[worker->second][s]) continue;
      SetFree({worker->second, s}, false);
      own_[job.place.id].push_back({{worker->second, s}, false});
    }
  }
}

void Planner::MoveFromDraining() {
  for (const RunningJob& job : view_.running) {
    if (!job.movable) continue;
    for (const Placement& placement : job.placements) {
      const auto worker = worker_index_.find(placement.worker);
      if (worker == worker_index_.end() ||
          view_.workers[worker->second].health != WorkerView::Health::kDraining) {
        continue;
      }
      moved_.insert(job.place.id);
      decisions_.push_back(
          {job.place.id,
           MoveRequired{internal::STOP_REASON_DRAIN,
                        absl::StrCat("worker ", placement.worker,
                                     " drains: stops with a checkpoint and goes on elsewhere")}});
      break;
    }
  }
}

void Planner::Decide(const WaitingJob& job) {
  decisions_.push_back({job.place.id, job.needs_prepare ? DecidePrepare() : DecideSlots(job)});
}

LifecycleEvent Planner::DecidePrepare() {
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

LifecycleEvent Planner::DecideSlots(const WaitingJob& job) {
  if (view_.workers.empty())
    return WaitExplained{"NO_WORKER", absl::StrCat(Needs(job), ", no worker is connected")};
  Kind& kind = KindOf(job.accelerator);
  if (kind.capacity < job.min_slots) {
    return WaitExplained{"NOT_ENOUGH_SLOTS",
                         absl::StrCat(Needs(job), ", the fleet has ", kind.capacity, Absences())};
  }
  const std::vector<OwnSlot> own = own_[job.place.id];
  for (const OwnSlot& slot : own) {
    // It comes free for nobody else.
    kind.leaving -= slot.in_use && IsReady(slot.index.first);
    SetFree(slot.index, true);
  }
  const bool use_excluded = kind.good_capacity < job.min_slots;
  const int64_t free = kind.good.free() + (use_excluded ? kind.excluded.free() : 0);
  LifecycleEvent event;
  if (free >= job.min_slots && (!kind.reserved || job.recovering)) {
    event = Take(kind, LargestGang(job.min_slots, job.max_slots, free), use_excluded);
  } else {
    event = WaitForSlots(job, kind, free);
  }
  // What it has not taken is still kept for it, or still held by its old processes.
  const bool waits = std::holds_alternative<WaitExplained>(event);
  for (const OwnSlot& slot : own) {
    SetFree(slot.index, false);
    kind.leaving += slot.in_use && IsReady(slot.index.first) && waits && !job.recovering;
  }
  return event;
}

LifecycleEvent Planner::WaitForSlots(const WaitingJob& job, Kind& kind, int64_t free) {
  if (kind.someone_waits) {
    return WaitExplained{"WAITING_FOR_TURN",
                         absl::StrCat(Needs(job), ", other jobs come before it")};
  }
  kind.someone_waits = true;
  kind.reserved = MakeRoom(job, kind, free);
  return WaitExplained{"WAITING_FOR_SLOTS",
                       absl::StrCat(Needs(job), ", ", free, " free",
                                    kind.reserved ? ", others make room" : "", Absences())};
}

bool Planner::MakeRoom(const WaitingJob& job, const Kind& kind, int64_t free) {
  int64_t missing = job.min_slots - free - kind.leaving;
  if (missing <= 0) return true;
  std::vector<const RunningJob*> later;
  for (const RunningJob& running : view_.running) {
    if (running.movable && running.accelerator == kind.accelerator &&
        moved_.count(running.place.id) == 0 && job.place < running.place) {
      later.push_back(&running);
    }
  }
  // The last in the queue's order give way first.
  std::sort(later.begin(), later.end(),
            [](const RunningJob* a, const RunningJob* b) { return b->place < a->place; });
  std::vector<const RunningJob*> leaving;
  for (const RunningJob* running : later) {
    if (missing <= 0) break;
    leaving.push_back(running);
    missing -= static_cast<int64_t>(running->placements.size());
  }
  if (missing > 0) return false;
  // A large one that came later in the list may make the smaller ones before it needless.
  std::reverse(leaving.begin(), leaving.end());
  for (const RunningJob* running : leaving) {
    const int64_t slots = static_cast<int64_t>(running->placements.size());
    if (missing + slots <= 0) {
      missing += slots;
      continue;
    }
    moved_.insert(running->place.id);
    decisions_.push_back(
        {running->place.id,
         MoveRequired{internal::STOP_REASON_PREEMPTION,
                      absl::StrCat("jobs/", job.place.id,
                                   " goes first: stops with a checkpoint and waits for slots")}});
  }
  return true;
}

SlotsAssigned Planner::Take(Kind& kind, int count, bool use_excluded) {
  SlotsAssigned assigned;
  const auto missing = [&] { return count - static_cast<int>(assigned.placements.size()); };
  if (const int worker = kind.good.BestFit(count); worker >= 0) {
    TakeFrom(kind, worker, count, &assigned);
    return assigned;
  }
  for (SlotPool* pool : {&kind.good, &kind.excluded}) {
    if (pool == &kind.excluded && !use_excluded) break;
    while (missing() > 0 && pool->free() > 0) {
      // The rest goes where it fits best.
      const int fit = pool->BestFit(missing());
      TakeFrom(kind, fit >= 0 ? fit : pool->Fullest(), missing(), &assigned);
    }
  }
  return assigned;
}

void Planner::TakeFrom(Kind& kind, int worker, int count, SlotsAssigned* assigned) {
  const std::vector<SlotView>& slots = view_.workers[worker].slots;
  for (int s = 0; s < static_cast<int>(slots.size()) && count > 0; ++s) {
    if (!free_[worker][s] || slots[s].accelerator != kind.accelerator) continue;
    SetFree({worker, s}, false);
    assigned->placements.push_back({view_.workers[worker].name, slots[s].id, slots[s].device_uuid});
    --count;
  }
}

void Planner::Grow() {
  for (const RunningJob& job : view_.running) {
    Kind& kind = KindOf(job.accelerator);
    const int64_t slots = static_cast<int64_t>(job.placements.size());
    if (!job.movable || !job.may_grow || kind.someone_waits || slots * 2 > job.max_slots ||
        kind.good.free() < slots || moved_.count(job.place.id) > 0) {
      continue;
    }
    // The slots are not taken: it waits for them like everybody else, but nobody does.
    const int wanted =
        LargestGang(static_cast<int>(slots), job.max_slots, slots + kind.good.free());
    kind.someone_waits = true;
    decisions_.push_back(
        {job.place.id, MoveRequired{internal::STOP_REASON_GROW,
                                    absl::StrCat("stops with a checkpoint to go on with ",
                                                 SlotCount(wanted, job.accelerator))}});
  }
}

std::string Planner::Needs(const WaitingJob& job) {
  return absl::StrCat("needs ", SlotCount(job.min_slots, job.accelerator));
}

const std::string& Planner::Absences() {
  if (absences_.has_value()) return *absences_;
  absences_.emplace();
  int named = 0;
  for (const WorkerView& worker : view_.workers) {
    if (worker.health == WorkerView::Health::kReady) continue;
    if (++named > kMaxNamed) continue;
    absl::StrAppend(&*absences_, ", worker ", worker.name,
                    worker.health == WorkerView::Health::kDraining ? " draining" : " away");
  }
  if (named > kMaxNamed) absl::StrAppend(&*absences_, " and ", named - kMaxNamed, " more");
  return *absences_;
}

}  // namespace anneal
