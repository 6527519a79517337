#pragma once
// The last unit: final norm, logits at supervised positions, loss, and the backward of all three in
// one pass.
//
// Logits are made in chunks of positions and turned into their own gradient in place, so that
// memory is one chunk whatever the vocabulary. The chunk is a function of the vocabulary alone: it
// is part of the arithmetic.

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "common/format/model_weights.h"
#include "worker/trainer/model/compute.h"
#include "worker/trainer/model/lora_plan.h"

namespace anneal::trainer {

class OutputHead {
 public:
  // Full fine-tuning if `lora` is null. `embedding` is the tied embedding's tensor, which must stay
  // at its place; null if lm_head has weights of its own.
  static absl::StatusOr<std::unique_ptr<OutputHead>> Load(const Compute& compute,
                                                          const ModelConfig& config,
                                                          const ModelWeights& weights,
                                                          const LoraPlan* lora,
                                                          const at::Tensor* embedding);

  const ParameterList& parameters() const { return parameters_; }
  ParameterList& parameters() { return parameters_; }

  // As Decoder::Head.
  HeadResult Run(const at::Tensor& x_TD, const Cell& cell, std::optional<double> loss_scale,
                 std::span<at::Tensor> gradients, std::span<at::Tensor> tied_gradients,
                 std::span<const int64_t> choices) const;
  // At every position.
  at::Tensor Logits(const at::Tensor& x_TD) const;

 private:
  OutputHead(const Compute& compute, const ModelConfig& config, const at::Tensor* embedding)
      : compute_(compute), config_(config), embedding_(embedding) {}
  at::Tensor OutputWeight() const {
    return compute_.Cast(embedding_ != nullptr ? *embedding_ : weight_VD_);
  }

  const Compute& compute_;
  const ModelConfig& config_;
  const at::Tensor* const embedding_;
  at::Tensor norm_D_, weight_VD_;
  int norm_place_ = -1, weight_place_ = -1;  // -1: frozen
  ParameterList parameters_;
};

}  // namespace anneal::trainer
