#include "coordinator/scheduling/placement_policy.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "coordinator/scheduling/planner.h"

namespace anneal {

bool QueuePlace::operator<(const QueuePlace& other) const {
  return std::tie(other.priority, since, id) < std::tie(priority, other.since, other.id);
}

std::vector<Decision> PlacementPolicy::Plan(const ClusterView& view,
                                            std::vector<WaitingJob> queue) const {
  std::sort(queue.begin(), queue.end(), [](const WaitingJob& a, const WaitingJob& b) {
    return std::tie(b.recovering, a.place) < std::tie(a.recovering, b.place);
  });
  Planner planner(view);
  for (const WaitingJob& job : queue) planner.Reserve(job);
  planner.MoveFromDraining();
  for (const WaitingJob& job : queue) planner.Decide(job);
  planner.Grow();
  return std::move(planner).Release();
}

}  // namespace anneal
