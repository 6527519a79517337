#pragma once
// What all parts of a decoder compute with, and the list of a unit's trainable tensors.

#include <ATen/core/Tensor.h>

#include <optional>
#include <utility>
#include <vector>

#include "worker/trainer/kernels/kernels.h"
#include "worker/trainer/model/decoder.h"

namespace anneal::trainer {

// One per decoder; constant after loading but for the dropout key.
struct Compute {
  Kernels& kernels;
  at::Device device;
  at::ScalarType type;
  double dropout_rate = 0;
  std::optional<std::pair<uint64_t, int64_t>> dropout_key;

  // Of what is trained: arithmetic may be bf16, masters never are.
  at::ScalarType master_type() const { return type == at::kBFloat16 ? at::kFloat : type; }
  // `weight` in compute type: itself, or a copy where the master is fp32 and the arithmetic bf16.
  at::Tensor Cast(const at::Tensor& weight) const { return weight.to(type); }
};

// The trainable tensors of one unit, in the order of its specifications; a tensor's place here is
// its place among the unit's values and gradients. `tensor` points into the unit, which must not
// move.
class TrainableList {
 public:
  enum class Initial { kLoaded, kUniform, kZero };

  // Returns the place.
  int Add(ParameterSpec spec, at::Tensor* tensor, Initial initial);

  std::vector<ParameterSpec> specs() const;
  // Fills `values`, one for each entry. kUniform: PEFT's initial lora_A, Kaiming-uniform with a =
  // sqrt(5), which is uniform in
  // +-1/sqrt(in_features).
  void FillInitial(uint64_t seed, std::span<at::Tensor> values) const;
  void Bind(std::span<const at::Tensor> values);

 private:
  struct Entry {
    ParameterSpec spec;
    at::Tensor* tensor;
    Initial initial;
  };
  std::vector<Entry> entries_;
};

// gradient = (or +=) scale * dy^T x, for dy [T, out] and x [T, in].
void WriteWeightGradient(const at::Tensor& dy, const at::Tensor& x, double scale, bool accumulate,
                         at::Tensor& gradient);

}  // namespace anneal::trainer
