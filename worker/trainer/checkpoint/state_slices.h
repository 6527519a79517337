#pragma once
// What a checkpoint holds of the model and the optimizer, named by tensor and range and not by
// rank, so that any number of ranks in any sharding mode can write it and read it.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "worker/trainer/shard/flat_layout.h"

namespace anneal::trainer {

enum class StateKind { kValue, kFirstMoment, kSecondMoment };
// "value", "first_moment", "second_moment".
absl::string_view StateKindName(StateKind kind);

// Elements [first, first + elements.numel()) of a tensor in row-major order, or of one of its
// moments, where they lie in memory.
struct StateSlice {
  StateKind kind = StateKind::kValue;
  std::string tensor;
  int64_t first = 0;
  at::Tensor elements;  // fp32, contiguous, 1-D
};

// Appends what `flat` holds of a unit's tensors: elements [first, first + flat.numel()) of the
// unit's buffer. Padding is left out.
void AppendSlices(StateKind kind, const FlatUnit& unit, int64_t first, const at::Tensor& flat,
                  std::vector<StateSlice>& slices);

// A logical shard's part of the whole state: as many equal contiguous parts of each unit's buffer
// as there are shards. A checkpoint has one file per logical shard, so its bytes do not depend on
// the number of ranks.
struct ShardState {
  int shard = 0;
  std::vector<StateSlice> slices;
};

}  // namespace anneal::trainer
