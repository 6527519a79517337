#pragma once
// What all parts of a decoder compute with, and the list of a unit's tensors.

#include <ATen/core/Tensor.h>

#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/format/model_weights.h"
#include "worker/trainer/kernels/kernels.h"
#include "worker/trainer/model/decoder.h"

namespace anneal::trainer {

// One per decoder; constant after loading but for the dropout key.
struct Compute {
  Kernels& kernels;
  at::Device device;
  at::ScalarType type;
  bool lent = false;  // as DecoderOptions::lent
  double dropout_rate = 0;
  std::optional<std::pair<uint64_t, int64_t>> dropout_key;

  // Of what is trained: arithmetic may be bf16, masters never are.
  at::ScalarType master_type() const { return type == at::kBFloat16 ? at::kFloat : type; }
  // `weight` in compute type: itself, or a copy where the master is fp32 and the arithmetic bf16.
  at::Tensor Cast(const at::Tensor& weight) const { return weight.to(type); }
};

// The tensors of one unit: the trainable ones in the order of its specifications, where a tensor's
// place is its place among the unit's values and gradients, and where weights are lent the frozen
// ones. `tensor` points into the unit, which must not move.
class ParameterList {
 public:
  enum class Initial { kLoaded, kUniform, kZero };

  // Returns the place.
  int Add(ParameterSpec spec, at::Tensor* tensor, Initial initial);
  void AddFrozen(ParameterSpec spec, at::Tensor* tensor);

  std::vector<ParameterSpec> specs() const;
  std::vector<ParameterSpec> frozen_specs() const;
  // Fills `values`, one for each entry. kUniform: PEFT's initial lora_A, Kaiming-uniform with a =
  // sqrt(5), which is uniform in +-1/sqrt(in_features). What was not loaded is read from `weights`.
  absl::Status FillInitial(uint64_t seed, const ModelWeights* weights,
                           std::span<at::Tensor> values) const;
  absl::Status FillFrozen(const ModelWeights& weights, std::span<at::Tensor> values) const;
  // Undefined tensors take the values away.
  void Bind(std::span<const at::Tensor> values) { BindTo(entries_, values); }
  void BindFrozen(std::span<const at::Tensor> values) { BindTo(frozen_, values); }

 private:
  struct Entry {
    ParameterSpec spec;
    at::Tensor* tensor;
    Initial initial;
  };
  static void BindTo(const std::vector<Entry>& entries, std::span<const at::Tensor> values);

  std::vector<Entry> entries_, frozen_;
};

// gradient = (or +=) scale * dy^T x, for dy [T, out] and x [T, in].
void WriteWeightGradient(const at::Tensor& dy, const at::Tensor& x, double scale, bool accumulate,
                         at::Tensor& gradient);

}  // namespace anneal::trainer
