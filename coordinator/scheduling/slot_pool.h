#pragma once
// The free slots of one kind: private to this folder.

#include <cstdint>
#include <set>
#include <vector>

namespace anneal {

// Counts free slots by worker, so that the best worker for a gang is found without looking at all
// of them. Guarded by its caller.
class SlotPool {
 public:
  explicit SlotPool(int workers) : free_(workers, 0) {}

  // `change` may be negative; a worker never has fewer than 0.
  void Add(int worker, int change);

  int64_t free() const { return total_; }
  int free_on(int worker) const { return free_[worker]; }
  // Of the workers that hold `count`, one that is left with the fewest; -1 if none does. Of equals
  // the first.
  int BestFit(int count) const;
  // The worker with the most free slots; -1 if there is none.
  int Fullest() const;

 private:
  std::vector<int> free_;
  // Workers by their number of free slots, from 1.
  std::vector<std::set<int>> by_free_{1};
  int64_t total_ = 0;
};

}  // namespace anneal
