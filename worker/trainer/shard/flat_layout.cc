#include "worker/trainer/shard/flat_layout.h"

#include <ATen/ops/zeros.h>

#include <functional>
#include <numeric>

namespace anneal::trainer {
namespace {

int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

FlatLayout::FlatLayout(const std::vector<ParameterUnit>& units, int logical_shards, int64_t alignment_bytes) {
  const int64_t alignment = alignment_bytes / static_cast<int64_t>(sizeof(float));
  for (const ParameterUnit& unit : units) {
    FlatUnit flat{.name = unit.name};
    for (const ParameterSpec& parameter : unit.parameters) {
      const int64_t elements =
          std::accumulate(parameter.shape.begin(), parameter.shape.end(), int64_t{1}, std::multiplies<>());
      const int64_t offset = RoundUp(flat.elements, alignment);
      flat.tensors.push_back({parameter.name, parameter.shape, offset, elements, parameter.weight_decay});
      flat.elements = offset + elements;
      parameters_ += elements;
    }
    flat.elements = RoundUp(flat.elements, logical_shards * kChunkElements);
    units_.push_back(std::move(flat));
  }
}

FlatBuffers::FlatBuffers(const FlatLayout& layout, at::Device device) {
  for (const FlatUnit& unit : layout.units()) {
    flat_.push_back(unit.elements == 0 ? at::Tensor() : at::zeros({unit.elements}, at::device(device).dtype(at::kFloat)));
    std::vector<at::Tensor>& views = views_.emplace_back();
    for (const FlatTensor& tensor : unit.tensors) {
      views.push_back(flat_.back().narrow(0, tensor.offset, tensor.elements).view(tensor.shape));
    }
  }
}

void FlatBuffers::AddInPlace(const FlatBuffers& other) {
  for (int unit = 0; unit < units(); ++unit) {
    if (flat_[unit].defined()) flat_[unit].add_(other.flat_[unit]);
  }
}

void FlatBuffers::ScaleInPlace(double factor) {
  for (at::Tensor& flat : flat_) {
    if (flat.defined()) flat.mul_(factor);
  }
}

}  // namespace anneal::trainer
