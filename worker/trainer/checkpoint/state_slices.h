#pragma once
// What a checkpoint holds of the model and the optimizer, where it lies in memory.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "worker/trainer/checkpoint/checkpoint_files.h"
#include "worker/trainer/checkpoint/state_range.h"
#include "worker/trainer/shard/flat_layout.h"

namespace anneal::trainer {

struct StateSlice {
  StateRange range;
  at::Tensor elements;  // range.elements of them: fp32, contiguous, 1-D, on any device
};

// Appends what `flat` holds of a unit's tensors: elements [first, first + flat.numel()) of the
// unit's buffer. Padding is left out.
void AppendSlices(StateKind kind, const FlatUnit& unit, int64_t first, const at::Tensor& flat,
                  std::vector<StateSlice>& slices);

// What to write of slices that lie in the CPU's memory, which must outlive it.
std::vector<StateBytes> BytesOf(const std::vector<StateSlice>& slices);
std::vector<StateRange> RangesOf(const std::vector<StateSlice>& slices);

// Fills the slices, whose ranges the checkpoint was opened with.
absl::Status ReadState(const CheckpointReader& checkpoint, const std::vector<StateSlice>& slices);

// A logical shard's part of the whole state: as many equal contiguous parts of each unit's buffer
// as there are shards. A checkpoint has one file per logical shard, so its bytes do not depend on
// the number of ranks.
struct ShardState {
  int shard = 0;
  std::vector<StateSlice> slices;
};

}  // namespace anneal::trainer
