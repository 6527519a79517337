#include "worker/trainer/shard/flat_layout.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <functional>
#include <numeric>

namespace anneal::trainer {
FlatLayout::FlatLayout(const std::vector<ParameterUnit>& units, int logical_shards,
                       int64_t alignment_bytes) {
  for (const ParameterUnit& unit : units) {
    std::vector<int64_t> elements;
    for (const ParameterSpec& parameter : unit.parameters) {
      elements.push_back(std::accumulate(parameter.shape.begin(), parameter.shape.end(), int64_t{1},
                                         std::multiplies<>()));
      parameters_ += elements.back();
    }
    const FlatPlacement placement = PlaceFlat(elements, logical_shards, alignment_bytes);
    FlatUnit flat{.name = unit.name, .elements = placement.elements};
    for (size_t i = 0; i < elements.size(); ++i) {
      const ParameterSpec& parameter = unit.parameters[i];
      flat.tensors.push_back({parameter.name, parameter.shape, placement.offsets[i], elements[i],
                              parameter.weight_decay});
    }
    units_.push_back(std::move(flat));
  }
}

UnitBuffer ZeroUnitBuffer(const FlatUnit& unit, at::Device device, at::ScalarType type) {
  UnitBuffer buffer = EmptyUnitBuffer(unit, device, type);
  if (buffer.flat.defined()) buffer.flat.zero_();
  return buffer;
}

UnitBuffer EmptyUnitBuffer(const FlatUnit& unit, at::Device device, at::ScalarType type) {
  if (unit.elements == 0) return {};
  UnitBuffer buffer{.flat = at::empty({unit.elements}, at::device(device).dtype(type))};
  for (const FlatTensor& tensor : unit.tensors) {
    buffer.views.push_back(
        buffer.flat.narrow(0, tensor.offset, tensor.elements).view(tensor.shape));
  }
  return buffer;
}

at::Tensor Part::Of(const at::Tensor& flat) const {
  const int64_t elements = flat.numel() / count;
  return flat.narrow(0, index * elements, elements);
}

FlatParts ZeroParts(const FlatLayout& layout, const Part& part, at::Device device,
                    at::ScalarType type) {
  FlatParts parts;
  for (const FlatUnit& unit : layout.units()) {
    parts.push_back(unit.elements == 0
                        ? at::Tensor()
                        : at::zeros({part.ElementsOf(unit)}, at::device(device).dtype(type)));
  }
  return parts;
}

Segment SegmentOf(const FlatUnit& unit, const FlatTensor& tensor, const Part& part) {
  const int64_t first = part.FirstOf(unit);
  const int64_t begin = std::max(first, tensor.offset);
  const int64_t end = std::min(first + part.ElementsOf(unit), tensor.offset + tensor.elements);
  return begin < end ? Segment{begin - first, end - begin} : Segment{};
}

FlatBuffers::FlatBuffers(const FlatLayout& layout, at::Device device, at::ScalarType type) {
  for (const FlatUnit& unit : layout.units()) units_.push_back(ZeroUnitBuffer(unit, device, type));
}

FlatParts FlatBuffers::Parts(const Part& part) const {
  FlatParts parts;
  for (const UnitBuffer& unit : units_)
    parts.push_back(unit.flat.defined() ? part.Of(unit.flat) : at::Tensor());
  return parts;
}

}  // namespace anneal::trainer
