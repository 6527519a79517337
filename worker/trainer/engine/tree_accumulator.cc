#include "worker/trainer/engine/tree_accumulator.h"

#include <algorithm>
#include <utility>

#include "common/base/status.h"

namespace anneal::trainer {
namespace {

bool LaidOutAlike(const FlatUnit& a, const FlatUnit& b) {
  const auto same_place = [](const FlatTensor& x, const FlatTensor& y) {
    return x.offset == y.offset && x.shape == y.shape;
  };
  return a.elements == b.elements && std::equal(a.tensors.begin(), a.tensors.end(),
                                                b.tensors.begin(), b.tensors.end(), same_place);
}

}  // namespace

TreeAccumulator::TreeAccumulator(const FlatLayout& layout, at::Device device)
    : layout_(layout), device_(device), trees_(layout.units().size()) {
  std::vector<const FlatUnit*> kinds;
  for (const FlatUnit& unit : layout.units()) {
    const auto alike = std::find_if(kinds.begin(), kinds.end(), [&](const FlatUnit* kind) {
      return LaidOutAlike(*kind, unit);
    });
    kind_.push_back(static_cast<int>(alike - kinds.begin()));
    if (alike == kinds.end()) kinds.push_back(&unit);
  }
  free_.resize(kinds.size());
}

UnitBuffer TreeAccumulator::Take(int unit) {
  std::vector<UnitBuffer>& free = free_[kind_[unit]];
  if (free.empty()) return ZeroUnitBuffer(layout_.units()[unit], device_);
  UnitBuffer buffer = std::move(free.back());
  free.pop_back();
  return buffer;
}

void TreeAccumulator::Add(int unit, int shard, bool ends_shard, UnitBuffer cell) {
  ANNEAL_CHECK(shard >= trees_[unit].ended_shards);
  EndShardsBefore(unit, shard);
  Tree& tree = trees_[unit];
  tree.shard = Merge(unit, std::move(tree.shard), std::move(cell));
  if (ends_shard) EndShardsBefore(unit, shard + 1);
}

UnitBuffer TreeAccumulator::TakeRoot(int unit, int shards) {
  EndShardsBefore(unit, shards);
  Tree tree = std::exchange(trees_[unit], {});
  ANNEAL_CHECK(tree.subtrees.size() == 1);
  Sum& root = tree.subtrees[0].sum;
  return root.has_value() ? *std::move(root) : Take(unit);
}

void TreeAccumulator::GiveBack(int unit, UnitBuffer buffer) {
  free_[kind_[unit]].push_back(std::move(buffer));
}

void TreeAccumulator::EndShardsBefore(int unit, int shard) {
  Tree& tree = trees_[unit];
  std::vector<Subtree>& subtrees = tree.subtrees;
  for (; tree.ended_shards < shard; ++tree.ended_shards) {
    subtrees.push_back({0, std::exchange(tree.shard, std::nullopt)});
    while (subtrees.size() >= 2 && subtrees[subtrees.size() - 2].level == subtrees.back().level) {
      Subtree right = std::move(subtrees.back());
      subtrees.pop_back();
      Subtree& left = subtrees.back();
      left = {left.level + 1, Merge(unit, std::move(left.sum), std::move(right.sum))};
    }
  }
}

TreeAccumulator::Sum TreeAccumulator::Merge(int unit, Sum a, Sum b) {
  if (!a.has_value()) return b;
  if (!b.has_value()) return a;
  if (a->flat.defined()) a->flat.add_(b->flat);
  GiveBack(unit, *std::move(b));
  return a;
}

}  // namespace anneal::trainer
