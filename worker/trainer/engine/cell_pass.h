#pragma once
// Cells through the whole decoder.

#include <cstdint>
#include <span>
#include <vector>

#include "common/protocol/messages.h"
#include "worker/trainer/data/micro_batch.h"
#include "worker/trainer/engine/phase_timer.h"
#include "worker/trainer/engine/tree_accumulator.h"
#include "worker/trainer/model/decoder.h"

namespace anneal::trainer {

struct PlacedCell {
  int shard;        // counted from the rank's first
  bool ends_shard;  // whether it is the last of its shard
  const MicroBatch* batch;
};

// Forward and backward of cells of one step, at least one, in the order of their places, together:
// all of them pass through a block before any passes through the next. So a block's weights are
// needed once and its gradients come at one time, at the price of keeping the activations of all
// these cells (of blocks from the lowest trainable one on). What is computed does not depend on how
// cells are grouped. Adds the gradient of loss_scale * (sum of losses) of each cell to `sums`;
// returns the sum of each cell's losses, added in double in order of positions.
std::vector<double> TrainCells(Decoder& decoder, std::span<const PlacedCell> cells, uint64_t seed,
                               double loss_scale, TreeAccumulator& sums, PhaseTimer& timer,
                               protocol::RankReport& phases);

// Forward only, without dropout; nothing is kept.
HeadResult EvaluateCell(Decoder& decoder, const MicroBatch& batch,
                        std::span<const int64_t> choices);

}  // namespace anneal::trainer
