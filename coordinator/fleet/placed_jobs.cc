#include "coordinator/fleet/placed_jobs.h"

#include <utility>
#include <vector>

#include "coordinator/lifecycle/step.h"

namespace anneal {

void PlacedJobs::Remove(const std::string& id) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return;
  for (const TaskPlace& place : OpenTasks(*found->second)) {
    touched_.insert(place.worker);
    const auto worker = by_worker_.find(place.worker);
    // Several ranks of the job may have been there.
    if (worker == by_worker_.end()) continue;
    worker->second.erase(id);
    if (worker->second.empty()) by_worker_.erase(worker);
  }
  jobs_.erase(found);
}

void PlacedJobs::Put(const std::shared_ptr<const internal::JobRecord>& record) {
  Remove(record->id());
  const std::vector<TaskPlace> places = OpenTasks(*record);
  if (places.empty()) return;
  jobs_[record->id()] = record;
  for (const TaskPlace& place : places) {
    touched_.insert(place.worker);
    by_worker_[place.worker].insert(record->id());
  }
}

const std::set<std::string>& PlacedJobs::On(absl::string_view worker) const {
  static const auto* const kNone = new std::set<std::string>();
  const auto found = by_worker_.find(worker);
  return found == by_worker_.end() ? *kNone : found->second;
}

std::set<std::string> PlacedJobs::TakeTouched() { return std::exchange(touched_, {}); }

}  // namespace anneal
