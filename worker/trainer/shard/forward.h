#pragma once
// Forward passes of one cell, unit by unit, whatever the sharding.

#include <ATen/core/Tensor.h>

#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/trainer/data/micro_batch.h"
#include "worker/trainer/model/decoder.h"
#include "worker/trainer/shard/sharded_values.h"

namespace anneal::trainer {

// Each of these acquires a unit for as long as it is used, so where weights are sharded all ranks
// call it together. They keep nothing for a backward, and set no dropout key.

// The output of the last block, [T, D]. With a null `cell` a rank only takes part in the gathers:
// the result is undefined then.
absl::StatusOr<at::Tensor> ForwardBlocks(Decoder& decoder, ShardedValues& values, const Cell* cell);

// Calls `use` while the head has its values, and the embedding too where it is tied.
absl::Status WithHead(Decoder& decoder, ShardedValues& values, const std::function<void()>& use);

// Logits at every position, [T, V], without dropout.
absl::StatusOr<at::Tensor> ForwardLogits(Decoder& decoder, ShardedValues& values,
                                         const MicroBatch& batch);

}  // namespace anneal::trainer
