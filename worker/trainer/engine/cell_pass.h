#pragma once
// One cell through the whole decoder.

#include <cstdint>
#include <span>

#include "common/protocol/messages.h"
#include "worker/trainer/data/micro_batch.h"
#include "worker/trainer/engine/phase_timer.h"
#include "worker/trainer/model/decoder.h"
#include "worker/trainer/shard/flat_layout.h"

namespace anneal::trainer {

// Forward and backward. Writes the gradient of loss_scale * (sum of the cell's losses) over `gradient` and returns that sum,
// added in double in order of positions. Keeps activations of one cell only, and none of blocks below the lowest trainable one.
double TrainCell(Decoder& decoder, const MicroBatch& batch, uint64_t seed, double loss_scale, FlatBuffers& gradient,
                 PhaseTimer& timer, protocol::RankReport& phases);

// Forward only, without dropout; nothing is kept.
HeadResult EvaluateCell(Decoder& decoder, const MicroBatch& batch, std::span<const int64_t> choices);

}  // namespace anneal::trainer
