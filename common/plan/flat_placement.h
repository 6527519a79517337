#pragma once
// Where tensors stand in the flat buffer of a unit (worker/trainer/shard/flat_layout.h).

#include <cstdint>
#include <vector>

namespace anneal {

// Sums that feed the gradient norm run over one chunk at a time, and ranks own whole chunks.
inline constexpr int64_t kChunkElements = 16'384;
// Of the first byte of each tensor.
inline constexpr int64_t kCpuAlignmentBytes = 64;
inline constexpr int64_t kCudaAlignmentBytes = 256;

struct FlatPlacement {
  std::vector<int64_t> offsets;  // of each tensor's first element
  int64_t elements = 0;          // of the buffer: a multiple of logical_shards * kChunkElements
};
// For fp32 tensors of so many elements each, in this order. Pure.
FlatPlacement PlaceFlat(const std::vector<int64_t>& tensors, int64_t logical_shards,
                        int64_t alignment_bytes);

}  // namespace anneal
