#pragma once
// A linear layer, y = x W^T (+ bias), with an optional low-rank adapter (LoRA, arXiv:2106.09685):
//   y = x W^T (+ bias) + scale * (dropout(x) A^T) B^T

#include <memory>

#include "absl/status/statusor.h"
#include "common/format/model_tensors.h"
#include "common/format/model_weights.h"
#include "worker/trainer/model/compute.h"
#include "worker/trainer/model/lora_plan.h"

namespace anneal::trainer {

class Linear {
 public:
  // Loads weight and bias; trainable ones are entered in `list`.
  static absl::StatusOr<std::unique_ptr<Linear>> Load(const Compute& compute,
                                                      const LinearModule& module,
                                                      const ModelWeights& weights, bool trainable,
                                                      ParameterList& list);
  Linear(const Linear&) = delete;
  Linear& operator=(const Linear&) = delete;

  void AddLora(const LoraShape& shape, ParameterList& list);

  // Whether Backward reads x: not for a frozen layer without adapter.
  bool backward_needs_input() const { return weight_place_ >= 0 || a_place_ >= 0; }

  // `low_rank` gets dropout(x) A^T, [T, r], which Backward wants back; undefined without adapter.
  at::Tensor Forward(const at::Tensor& x, const TokenPlaces& places, at::Tensor* low_rank) const;
  // Writes the layer's gradients into its places in `gradients`. With `dx`, adds the gradient into
  // it, or sets it if it is undefined, so that layers that share an input add up in the order of
  // the calls.
  void Backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& low_rank,
                const TokenPlaces& places, std::span<at::Tensor> gradients, at::Tensor* dx) const;

 private:
  Linear(const Compute& compute, const LinearModule& module) : compute_(compute), module_(module) {}
  at::Tensor Dropout(const at::Tensor& x, const TokenPlaces& places) const;

  const Compute& compute_;
  const LinearModule module_;
  at::Tensor weight_, bias_;                 // [out, in], [out]; no bias: undefined
  int weight_place_ = -1, bias_place_ = -1;  // -1: frozen
  at::Tensor a_, b_;                         // [r, in], [out, r]
  int a_place_ = -1, b_place_ = -1;
  double scale_ = 0;
};

}  // namespace anneal::trainer
