#pragma once
// Where each value lies that the engine owns: one flat buffer per unit, the same for every sharding
// mode and every number of ranks.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/plan/flat_placement.h"
#include "worker/trainer/model/decoder.h"

namespace anneal::trainer {

struct FlatTensor {
  std::string name;
  std::vector<int64_t> shape;
  int64_t offset = 0;  // of the first element in the unit's buffer
  int64_t elements = 0;
  bool weight_decay = true;
};

struct FlatUnit {
  std::string name;
  std::vector<FlatTensor> tensors;  // in canonical order
  int64_t elements =
      0;  // of the buffer: a multiple of logical_shards * kChunkElements; 0 without tensors
};

// Tensors stand in the decoder's canonical order at aligned starts (64 bytes on a CPU, 256 on
// CUDA), and each unit is padded to `logical_shards` chunks: so any world size that divides the
// shards divides every buffer into parts of whole chunks. Immutable, thread-safe.
class FlatLayout {
 public:
  FlatLayout(const std::vector<ParameterUnit>& units, int logical_shards, int64_t alignment_bytes);

  const std::vector<FlatUnit>& units() const { return units_; }
  // Values, without padding.
  int64_t parameters() const { return parameters_; }

 private:
  std::vector<FlatUnit> units_;
  int64_t parameters_ = 0;
};

// One number for every value of a unit. Padding is zero and stays so, as everything that writes
// here writes through the views or adds two of these.
struct UnitBuffer {
  at::Tensor flat;                // all of it; undefined if the unit has no tensors
  std::vector<at::Tensor> views;  // its tensors, shaped, in the order of the layout
};
UnitBuffer ZeroUnitBuffer(const FlatUnit& unit, at::Device device,
                          at::ScalarType type = at::kFloat);
// With whatever is in memory, for what is filled wholly.
UnitBuffer EmptyUnitBuffer(const FlatUnit& unit, at::Device device, at::ScalarType type);

// One of `count` equal contiguous parts of every unit's buffer: what one rank owns. Whole chunks,
// if `count` divides the logical shards.
struct Part {
  int index = 0;
  int count = 1;

  int64_t ElementsOf(const FlatUnit& unit) const { return unit.elements / count; }
  int64_t FirstOf(const FlatUnit& unit) const { return index * ElementsOf(unit); }
  // As it lies in `flat`, a whole buffer.
  at::Tensor Of(const at::Tensor& flat) const;
};
// The same part of every unit's buffer, by unit; undefined for a unit without tensors.
using FlatParts = std::vector<at::Tensor>;
FlatParts ZeroParts(const FlatLayout& layout, const Part& part, at::Device device,
                    at::ScalarType type = at::kFloat);

// Elements [first, first + elements) of a part of a unit's buffer that belong to `tensor`; none if
// `elements` is 0.
struct Segment {
  int64_t first = 0;
  int64_t elements = 0;
};
Segment SegmentOf(const FlatUnit& unit, const FlatTensor& tensor, const Part& part);

// The same for every unit. Movable. Guarded by its owner.
class FlatBuffers {
 public:
  // Zeros. `layout` is not kept.
  FlatBuffers(const FlatLayout& layout, at::Device device, at::ScalarType type = at::kFloat);
  // One buffer for each unit of a layout.
  explicit FlatBuffers(std::vector<UnitBuffer> units) : units_(std::move(units)) {}

  int units() const { return static_cast<int>(units_.size()); }
  UnitBuffer& unit(int unit) { return units_[unit]; }
  at::Tensor& flat(int unit) { return units_[unit].flat; }
  const at::Tensor& flat(int unit) const { return units_[unit].flat; }
  std::span<at::Tensor> views(int unit) { return units_[unit].views; }
  std::span<const at::Tensor> views(int unit) const { return units_[unit].views; }

  // Where `part` lies in these.
  FlatParts Parts(const Part& part) const;

 private:
  std::vector<UnitBuffer> units_;
};

}  // namespace anneal::trainer
