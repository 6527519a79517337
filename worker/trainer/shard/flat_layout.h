#pragma once
// Where each trainable value lies: one flat fp32 buffer per unit, the same for every sharding mode and every number of ranks.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
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

// One fp32 number for every trainable value: the values themselves, a gradient, or a moment. Padding is zero and stays so,
// as everything that writes here writes through views of tensors or adds two of these. Movable. Guarded by its owner.
class FlatBuffers {
 public:
  // Zeros. `layout` is not kept.
  FlatBuffers(const FlatLayout& layout, at::Device device);

  int units() const { return static_cast<int>(flat_.size()); }
  // All of a unit, undefined if it has no tensors.
  at::Tensor& flat(int unit) { return flat_[unit]; }
  const at::Tensor& flat(int unit) const { return flat_[unit]; }
  // Its tensors, shaped, in the order of the layout.
  std::span<at::Tensor> views(int unit) { return views_[unit]; }
  std::span<const at::Tensor> views(int unit) const { return views_[unit]; }

  void AddInPlace(const FlatBuffers& other);
  void ScaleInPlace(double factor);

 private:
  std::vector<at::Tensor> flat_;
  std::vector<std::vector<at::Tensor>> views_;
};

}  // namespace anneal::trainer
