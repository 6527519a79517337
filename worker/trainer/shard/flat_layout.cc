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

UnitBuffer ZeroUnitBuffer(const FlatUnit& unit, at::Device device) {
  if (unit.elements == 0) return {};
  UnitBuffer buffer{.flat = at::zeros({unit.elements}, at::device(device).dtype(at::kFloat))};
  for (const FlatTensor& tensor : unit.tensors) {
    buffer.views.push_back(buffer.flat.narrow(0, tensor.offset, tensor.elements).view(tensor.shape));
  }
  return buffer;
}

FlatBuffers::FlatBuffers(const FlatLayout& layout, at::Device device) {
  for (const FlatUnit& unit : layout.units()) units_.push_back(ZeroUnitBuffer(unit, device));
}

void FlatBuffers::ScaleInPlace(double factor) {
  for (UnitBuffer& unit : units_) {
    if (unit.flat.defined()) unit.flat.mul_(factor);
  }
}

}  // namespace anneal::trainer
