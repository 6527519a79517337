#pragma once
// Adds the gradients of a rank's cells in the one order that every rank count shares.

#include <memory>
#include <vector>

#include "worker/trainer/shard/flat_layout.h"

namespace anneal::trainer {

// The micro-batches of a shard are added one after the other; the shards of the rank, a power of two of them, are the leaves of
// a binary tree that is added as soon as two neighbours of a level are there. So log2(shards) + 1 gradient sets live at most,
// and one more while a shard has several micro-batches. An empty shard passes its sibling on unchanged. The levels above the
// rank are FixedOrderReducer's.
//
// Per step: for each shard, { BeginCell, write, EndCell } for each micro-batch, then EndShard; then Root, and Clear when done
// with it. Owner: TrainStep. Guarded by its caller.
class TreeAccumulator {
 public:
  // `layout` must outlive it.
  TreeAccumulator(const FlatLayout& layout, at::Device device);

  // Where the next micro-batch's gradient is to be written, over whatever is there.
  FlatBuffers& BeginCell();
  void EndCell();
  void EndShard();

  // The sum over all shards, whose number must have been a power of two. If all were empty, a set whose content means nothing.
  FlatBuffers& Root();
  void Clear();

 private:
  using Set = std::unique_ptr<FlatBuffers>;  // null: empty subtree
  struct Subtree {
    int level;
    Set sum;
  };

  Set Take();
  void GiveBack(Set set);
  // a + b, into a's memory.
  Set Merge(Set a, Set b);

  const FlatLayout& layout_;
  const at::Device device_;
  std::vector<Set> free_;
  std::vector<Subtree> subtrees_;  // levels fall from first to last
  Set shard_;                      // the micro-batches of this shard so far
  Set cell_;                       // the micro-batch being written
};

}  // namespace anneal::trainer
