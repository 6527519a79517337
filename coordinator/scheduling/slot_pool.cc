#include "coordinator/scheduling/slot_pool.h"

namespace anneal {

void SlotPool::Add(int worker, int change) {
  int& free = free_[worker];
  if (free > 0) by_free_[free].erase(worker);
  free += change;
  total_ += change;
  if (free >= static_cast<int>(by_free_.size())) by_free_.resize(free + 1);
  if (free > 0) by_free_[free].insert(worker);
}

int SlotPool::BestFit(int count) const {
  for (int held = count; held < static_cast<int>(by_free_.size()); ++held) {
    if (!by_free_[held].empty()) return *by_free_[held].begin();
  }
  return -1;
}

int SlotPool::Fullest() const {
  for (int held = static_cast<int>(by_free_.size()) - 1; held > 0; --held) {
    if (!by_free_[held].empty()) return *by_free_[held].begin();
  }
  return -1;
}

}  // namespace anneal
