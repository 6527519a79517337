// The fleet as the scheduler and as users see it.

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "coordinator/fleet/fleet.h"
#include "coordinator/lifecycle/proto_time.h"

namespace anneal {

std::map<std::string, std::string> Fleet::TakenSlots(const WorkerState& worker) {
  std::map<std::string, std::string> taken;
  for (const v1::Slot& slot : worker.observed.slots()) {
    if (!slot.job().empty()) taken[slot.id()] = slot.job();
  }
  for (const auto& [key, memory] : worker.tasks) {
    for (const std::string& slot : memory.slot_ids) taken[slot] = absl::StrCat("jobs/", key.job);
  }
  return taken;
}

ClusterView Fleet::View(absl::Time wall_now) const {
  ClusterView view;
  for (const auto& [name, worker] : workers_) {
    WorkerView& out = view.workers.emplace_back();
    out.name = name;
    out.excluded = IsExcluded(worker, wall_now);
    if (worker.session == nullptr || worker.lost) {
      out.health = WorkerView::Health::kAway;
    } else if (worker.record.drained() || worker.observed.draining()) {
      out.health = WorkerView::Health::kDraining;
    }
    const std::map<std::string, std::string> taken = TakenSlots(worker);
    for (const v1::Slot& slot : worker.observed.slots()) {
      const auto holder = taken.find(slot.id());
      out.slots.push_back(
          {slot.id(), slot.accelerator(), slot.device_uuid(),
           holder == taken.end() ? "" : std::string(absl::StripPrefix(holder->second, "jobs/"))});
    }
    const auto preparing = std::count_if(
        worker.tasks.begin(), worker.tasks.end(),
        [](const auto& entry) { return entry.first.kind == TaskKey::Kind::kPrepare; });
    out.free_prepare_slots = worker.observed.prepare_slots() - static_cast<int32_t>(preparing);
  }
  return view;
}

std::vector<v1::Worker> Fleet::Roster(absl::Duration now, absl::Time wall_now) const {
  std::vector<v1::Worker> roster;
  for (const auto& [name, worker] : workers_) {
    if (worker.record.left() || now - worker.last_heard >= options_.forget_after) continue;
    v1::Worker& out = roster.emplace_back();
    out.set_name(absl::StrCat("workers/", name));
    // A worker that an earlier coordinator has known, and that has not found this one yet.
    const bool unheard = worker.last_sync == absl::Time();
    if (worker.lost || unheard) {
      out.set_state(v1::Worker::STATE_LOST);
    } else if (worker.record.drained() || worker.observed.draining()) {
      out.set_state(v1::Worker::STATE_DRAINING);
    } else if (IsExcluded(worker, wall_now)) {
      out.set_state(v1::Worker::STATE_EXCLUDED);
      *out.mutable_excluded_until() = worker.record.excluded_until();
    } else {
      out.set_state(v1::Worker::STATE_READY);
    }
    const std::map<std::string, std::string> taken = TakenSlots(worker);
    for (const v1::Slot& slot : worker.observed.slots()) {
      v1::Slot& shown = *out.add_slots();
      shown = slot;
      const auto holder = taken.find(slot.id());
      shown.set_job(holder == taken.end() ? "" : holder->second);
    }
    out.set_prepare_slots(worker.observed.prepare_slots());
    if (!unheard) *out.mutable_last_sync_time() = TimestampOf(worker.last_sync);
    *out.mutable_register_time() = worker.record.register_time();
    out.set_version(worker.observed.version());
    *out.mutable_software() = worker.observed.software();
    out.set_data_address(worker.observed.data_address());
  }
  return roster;
}

}  // namespace anneal
