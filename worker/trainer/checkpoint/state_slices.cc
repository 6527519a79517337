#include "worker/trainer/checkpoint/state_slices.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>

#include "absl/types/span.h"

namespace anneal::trainer {

void AppendSlices(StateKind kind, const FlatUnit& unit, int64_t first, const at::Tensor& flat,
                  std::vector<StateSlice>& slices) {
  const int64_t last = first + flat.numel();
  for (const FlatTensor& tensor : unit.tensors) {
    const int64_t begin = std::max(first, tensor.offset);
    const int64_t end = std::min(last, tensor.offset + tensor.elements);
    if (begin >= end) continue;
    slices.push_back({.range = {.kind = kind,
                                .tensor = tensor.name,
                                .first = begin - tensor.offset,
                                .elements = end - begin},
                      .elements = flat.narrow(0, begin - first, end - begin)});
  }
}

std::vector<StateBytes> BytesOf(const std::vector<StateSlice>& slices) {
  std::vector<StateBytes> state;
  state.reserve(slices.size());
  for (const StateSlice& slice : slices) {
    state.push_back({slice.range, absl::MakeConstSpan(slice.elements.const_data_ptr<float>(),
                                                      slice.range.elements)});
  }
  return state;
}

std::vector<StateRange> RangesOf(const std::vector<StateSlice>& slices) {
  std::vector<StateRange> ranges;
  ranges.reserve(slices.size());
  for (const StateSlice& slice : slices) ranges.push_back(slice.range);
  return ranges;
}

absl::Status ReadState(const CheckpointReader& checkpoint, const std::vector<StateSlice>& slices) {
  return checkpoint.ReadState(
      RangesOf(slices), [&](size_t slice, int64_t first, absl::Span<const float> stored) {
        const auto count = static_cast<int64_t>(stored.size());
        // The file is mapped read-only and the tensor over it only read.
        slices[slice]
            .elements.narrow(0, first, count)
            .copy_(at::from_blob(const_cast<float*>(stored.data()), {count}, at::kFloat));
      });
}

}  // namespace anneal::trainer
