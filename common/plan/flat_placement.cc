#include "common/plan/flat_placement.h"

namespace anneal {
namespace {

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

FlatPlacement PlaceFlat(const std::vector<int64_t>& tensors, int64_t logical_shards,
                        int64_t alignment_bytes) {
  const int64_t alignment = alignment_bytes / static_cast<int64_t>(sizeof(float));
  FlatPlacement placement;
  for (const int64_t elements : tensors) {
    placement.offsets.push_back(RoundUp(placement.elements, alignment));
    placement.elements = placement.offsets.back() + elements;
  }
  placement.elements = RoundUp(placement.elements, logical_shards * kChunkElements);
  return placement;
}

}  // namespace anneal
