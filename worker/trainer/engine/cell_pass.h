#pragma once
// Cells through the whole decoder.

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/protocol/messages.h"
#include "worker/trainer/data/micro_batch.h"
#include "worker/trainer/engine/phase_timer.h"
#include "worker/trainer/engine/tree_accumulator.h"
#include "worker/trainer/model/decoder.h"
#include "worker/trainer/shard/sharded_values.h"

namespace anneal::trainer {

struct PlacedCell {
  int shard;        // counted from the rank's first
  bool ends_shard;  // whether it is the last of its shard
  const MicroBatch* batch;
};

// What one pass of cells works with. All references must outlive the call.
struct CellPass {
  Decoder& decoder;
  ShardedValues& values;
  TreeAccumulator& sums;
  PhaseTimer& timer;
  protocol::RankReport& phases;
  int64_t step = 0;
  uint64_t seed = 0;  // of dropout
  double loss_scale = 0;
  // Called when all of these cells have added their gradient of a unit, from the last unit to the
  // lowest trainable one.
  std::function<absl::Status(int unit)> after_backward;
};

// Forward and backward of cells of one step, in the order of their places, together:
// all of them pass through a block before any passes through the next. So a block's weights are
// needed once and its gradients come at one time, at the price of keeping the activations of all
// these cells (of blocks from the lowest trainable one on). What is computed does not depend on how
// cells are grouped. Adds the gradient of loss_scale * (sum of losses) of each cell to `sums`;
// returns the sum of each cell's losses, added in double in order of positions.
//
// Units are acquired around their use. So where weights are sharded all ranks make as many passes,
// one that has no more cells too, with none.
absl::StatusOr<std::vector<double>> TrainCells(const CellPass& pass,
                                               std::span<const PlacedCell> cells);

// Forward only, without dropout; nothing is kept. Where weights are sharded all ranks call it
// together, one that has no more cells with null, for which it returns nothing.
absl::StatusOr<std::optional<HeadResult>> EvaluateCell(Decoder& decoder, ShardedValues& values,
                                                       const MicroBatch* batch,
                                                       std::span<const int64_t> choices);

}  // namespace anneal::trainer
