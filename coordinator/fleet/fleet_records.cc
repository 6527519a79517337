// What the fleet remembers of workers on disk.

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "coordinator/fleet/fleet.h"
#include "coordinator/lifecycle/proto_time.h"

namespace anneal {

absl::Status Fleet::SetDrained(absl::string_view worker, bool drained) {
  const auto found = workers_.find(worker);
  if (found == workers_.end())
    return WithReason(absl::NotFoundError(absl::StrCat("no workers/", worker)), "NOT_FOUND");
  if (found->second.record.drained() != drained) {
    found->second.record.set_drained(drained);
    found->second.record_changed = true;
    found->second.desired_changed = true;
    roster_changed_ = true;
  }
  if (!drained && found->second.record.has_excluded_until()) {
    found->second.record.clear_excluded_until();
    found->second.record_changed = true;
    roster_changed_ = true;
  }
  return absl::OkStatus();
}

void Fleet::RememberSlots(WorkerState& worker) {
  google::protobuf::RepeatedPtrField<internal::SlotRecord> slots;
  for (const v1::Slot& slot : worker.observed.slots()) {
    internal::SlotRecord& record = *slots.Add();
    record.set_id(slot.id());
    record.set_accelerator(slot.accelerator());
    record.set_threads(slot.threads());
  }
  const auto same = [](const internal::SlotRecord& a, const internal::SlotRecord& b) {
    return a.SerializeAsString() == b.SerializeAsString();
  };
  if (std::equal(slots.begin(), slots.end(), worker.record.slots().begin(),
                 worker.record.slots().end(), same)) {
    return;
  }
  worker.record.mutable_slots()->Swap(&slots);
  worker.record_changed = true;
}

bool Fleet::IsExcluded(const WorkerState& worker, absl::Time wall_now) {
  return worker.record.has_excluded_until() && wall_now < TimeOf(worker.record.excluded_until());
}

void Fleet::CountFault(absl::string_view name, absl::Time wall_now) {
  const auto found = workers_.find(name);
  if (found == workers_.end()) return;
  internal::WorkerRecord& record = found->second.record;
  auto& times = *record.mutable_fault_times();
  times.erase(std::remove_if(times.begin(), times.end(),
                             [&](const google::protobuf::Timestamp& time) {
                               return TimeOf(time) + options_.fault_window < wall_now;
                             }),
              times.end());
  *times.Add() = TimestampOf(wall_now);
  found->second.record_changed = true;
  if (times.size() < options_.faults_to_exclude) return;
  times.Clear();
  roster_changed_ = true;
  *record.mutable_excluded_until() = TimestampOf(wall_now + options_.exclude_for);
  ANNEAL_LOG(WARNING) << "worker excluded" << Field("worker", name)
                      << Field("for", absl::FormatDuration(options_.exclude_for));
}

std::vector<internal::WorkerRecord> Fleet::TakeChangedRecords() {
  std::vector<internal::WorkerRecord> records;
  for (auto& [name, worker] : workers_) {
    if (std::exchange(worker.record_changed, false)) records.push_back(worker.record);
  }
  return records;
}

}  // namespace anneal
