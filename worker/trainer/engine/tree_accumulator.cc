#include "worker/trainer/engine/tree_accumulator.h"

#include <utility>

#include "common/base/status.h"

namespace anneal::trainer {

TreeAccumulator::TreeAccumulator(const FlatLayout& layout, at::Device device) : layout_(layout), device_(device) {}

FlatBuffers& TreeAccumulator::BeginCell() {
  ANNEAL_CHECK(cell_ == nullptr);
  cell_ = Take();
  return *cell_;
}

void TreeAccumulator::EndCell() { shard_ = Merge(std::move(shard_), std::move(cell_)); }

void TreeAccumulator::EndShard() {
  subtrees_.push_back({0, std::move(shard_)});
  while (subtrees_.size() >= 2 && subtrees_[subtrees_.size() - 2].level == subtrees_.back().level) {
    Subtree right = std::move(subtrees_.back());
    subtrees_.pop_back();
    Subtree& left = subtrees_.back();
    left = {left.level + 1, Merge(std::move(left.sum), std::move(right.sum))};
  }
}

FlatBuffers& TreeAccumulator::Root() {
  ANNEAL_CHECK(subtrees_.size() == 1);
  if (subtrees_[0].sum == nullptr) subtrees_[0].sum = Take();
  return *subtrees_[0].sum;
}

void TreeAccumulator::Clear() {
  for (Subtree& subtree : subtrees_) GiveBack(std::move(subtree.sum));
  subtrees_.clear();
}

TreeAccumulator::Set TreeAccumulator::Take() {
  if (free_.empty()) return std::make_unique<FlatBuffers>(layout_, device_);
  Set set = std::move(free_.back());
  free_.pop_back();
  return set;
}

void TreeAccumulator::GiveBack(Set set) {
  if (set != nullptr) free_.push_back(std::move(set));
}

TreeAccumulator::Set TreeAccumulator::Merge(Set a, Set b) {
  if (a == nullptr) return b;
  if (b == nullptr) return a;
  a->AddInPlace(*b);
  GiveBack(std::move(b));
  return a;
}

}  // namespace anneal::trainer
