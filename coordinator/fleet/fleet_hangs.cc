// How the fleet finds a rank that hangs inside a collective.

#include "absl/strings/str_cat.h"
#include "coordinator/fleet/fleet.h"

namespace anneal {

std::optional<TaskHung> Fleet::FindHung(const internal::JobRecord& record) const {
  TaskKey furthest_behind;
  const internal::CollectiveWait* its_wait = nullptr;
  for (const internal::RankRecord& rank : record.train().ranks()) {
    const TaskKey key{record.id(), TaskKey::Kind::kTrain, record.train().generation(), rank.rank()};
    const auto worker = workers_.find(rank.worker());
    if (worker == workers_.end()) return std::nullopt;
    const auto task = worker->second.tasks.find(key);
    // One that is not overdue is at work, and its own watchdog looks after it.
    if (task == worker->second.tasks.end() || !task->second.overdue.has_value())
      return std::nullopt;
    if (its_wait != nullptr && its_wait->sequence() <= task->second.overdue->sequence()) continue;
    furthest_behind = key;
    its_wait = &*task->second.overdue;
  }
  if (its_wait == nullptr) return std::nullopt;
  return TaskHung{furthest_behind, absl::StrCat("rank ", furthest_behind.rank, " hangs ",
                                                its_wait->where(), "; all ranks wait")};
}

}  // namespace anneal
