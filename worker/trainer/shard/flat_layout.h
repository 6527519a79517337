#pragma once
// Where each trainable value lies: one flat fp32 buffer per unit, the same for every sharding mode and every number of ranks.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "worker/trainer/model/decoder.h"

namespace anneal::trainer {

// Sums that feed the gradient norm run over one chunk at a time, and ranks own whole chunks.
inline constexpr int64_t kChunkElements = 16'384;

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
  int64_t elements = 0;             // of the buffer: a multiple of logical_shards * kChunkElements; 0 without tensors
};

// Tensors stand in the decoder's canonical order at aligned starts (64 bytes on a CPU, 256 on CUDA), and each unit is padded to
// `logical_shards` chunks: so any world size that divides the shards divides every buffer into parts of whole chunks.
// Immutable, thread-safe.
class FlatLayout {
 public:
  FlatLayout(const std::vector<ParameterUnit>& units, int logical_shards, int64_t alignment_bytes);

  const std::vector<FlatUnit>& units() const { return units_; }
  // Trainable values, without padding.
  int64_t parameters() const { return parameters_; }

 private:
  std::vector<FlatUnit> units_;
  int64_t parameters_ = 0;
};

// One fp32 number for every trainable value of a unit. Padding is zero and stays so, as everything that writes here writes
// through the views or adds two of these.
struct UnitBuffer {
  at::Tensor flat;                // all of it; undefined if the unit has no tensors
  std::vector<at::Tensor> views;  // its tensors, shaped, in the order of the layout
};
UnitBuffer ZeroUnitBuffer(const FlatUnit& unit, at::Device device);

// The same for every unit: the values themselves, a gradient, or a moment. Movable. Guarded by its owner.
class FlatBuffers {
 public:
  // Zeros. `layout` is not kept.
  FlatBuffers(const FlatLayout& layout, at::Device device);
  // One buffer for each unit of a layout.
  explicit FlatBuffers(std::vector<UnitBuffer> units) : units_(std::move(units)) {}

  int units() const { return static_cast<int>(units_.size()); }
  UnitBuffer& unit(int unit) { return units_[unit]; }
  at::Tensor& flat(int unit) { return units_[unit].flat; }
  const at::Tensor& flat(int unit) const { return units_[unit].flat; }
  std::span<at::Tensor> views(int unit) { return units_[unit].views; }
  std::span<const at::Tensor> views(int unit) const { return units_[unit].views; }

  void ScaleInPlace(double factor);

 private:
  std::vector<UnitBuffer> units_;
};

}  // namespace anneal::trainer
