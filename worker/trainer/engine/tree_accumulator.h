#pragma once
// Adds the gradients of a rank's cells in the one order that every rank count shares.

#include <optional>
#include <vector>

#include "worker/trainer/shard/flat_layout.h"

namespace anneal::trainer {

// Each unit has a tree of its own, so cells may go through the whole decoder one after another or
// through each block together: the sums have the same bits. The micro-batches of a shard are added
// one after the other; the shards of the rank, a power of two of them, are the leaves of a binary
// tree that is added as soon as two neighbours of a level are there. So at most log2(shards) + 1
// buffers of a unit hold sums, besides the cells being written. An empty shard passes its sibling
// on unchanged. The levels above the rank are FixedOrderReducer's.
//
// Buffers are lent from a store that keeps them from step to step; units that are laid out alike,
// as the layers of a model are, share theirs. Owner: TrainStep. Guarded by its caller.
class TreeAccumulator {
 public:
  // `layout` must outlive it.
  TreeAccumulator(const FlatLayout& layout, at::Device device);

  // Where the gradient of one cell is to be written, over whatever is there. Empty for a unit
  // without tensors.
  UnitBuffer Take(int unit);
  // Adds a cell of `shard`. The cells of a unit come in order of shards, counted from the rank's
  // first, and of micro-batches. `ends_shard`: no more of this shard will come. Not saying so costs
  // memory until the next shard's first, nothing else.
  void Add(int unit, int shard, bool ends_shard, UnitBuffer cell);
  // The sum of a unit over the first `shards` shards, a power of two, and the end of the step for
  // this unit. If nothing was added to it the content means nothing.
  UnitBuffer TakeRoot(int unit, int shards);
  // Returns what Take or TakeRoot gave, for what comes next.
  void GiveBack(int unit, UnitBuffer buffer);

 private:
  using Sum = std::optional<UnitBuffer>;  // none: an empty subtree
  struct Subtree {
    int level;
    Sum sum;
  };
  struct Tree {
    std::vector<Subtree> subtrees;  // of the shards that have ended; levels fall from first to last
    int ended_shards = 0;
    Sum shard;  // the micro-batches of the next one so far
  };

  void EndShardsBefore(int unit, int shard);
  // a + b, into a's memory.
  Sum Merge(int unit, Sum a, Sum b);

  const FlatLayout& layout_;
  const at::Device device_;
  std::vector<int> kind_;                      // by unit: units of one kind are laid out alike
  std::vector<std::vector<UnitBuffer>> free_;  // by kind
  std::vector<Tree> trees_;                    // by unit
};

}  // namespace anneal::trainer
