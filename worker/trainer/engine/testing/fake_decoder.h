#pragma once
// A model small enough to work out by hand: one number per token of the vocabulary and one bias,
// squared error instead of cross entropy. It obeys Decoder's contract, so everything around a
// decoder can be tested without one.

#include <memory>
#include <vector>

#include "worker/trainer/model/decoder.h"

namespace anneal::trainer::testing {

inline constexpr int64_t kFakeVocabulary = 32;

// Units: "embed" without parameters, "layers.0" with w [kFakeVocabulary], "head" with b [1]. A
// supervised token t has the logit w[t] + b and the loss (w[t] + b - 1)^2 / 2, counts as correct
// above 1/2, and a choice has its own logit. Initial values are w[t] = t / 100 and b = 0.1. A
// unit's values are read in its own calls only: the block's output is w.
class FakeDecoder : public Decoder {
 public:
  // From step `bad_step` on, if not 0, losses are not a number.
  explicit FakeDecoder(int64_t bad_step = 0);

  const ModelConfig& config() const override { return config_; }
  const std::vector<ParameterUnit>& units() const override { return units_; }
  int lowest_trainable_unit() const override { return 1; }
  absl::Status InitialValues(int unit, uint64_t seed, std::span<at::Tensor> values) override;
  void Bind(int unit, std::span<const at::Tensor> values) override;
  const std::vector<ParameterUnit>& frozen_units() const override { return frozen_units_; }
  absl::Status FrozenValues(int, std::span<at::Tensor>) override { return absl::OkStatus(); }
  void BindFrozen(int, std::span<const at::Tensor>) override {}
  Cell MakeCell(const MicroBatch& batch) const override;
  void SetDropoutKey(std::optional<std::pair<uint64_t, int64_t>> seed_and_step) override;
  at::Tensor EmbedForward(const Cell& cell) override;
  at::Tensor BlockForward(int layer, const at::Tensor& x_TD, const Cell& cell,
                          BlockSaved* saved) override;
  HeadResult Head(const at::Tensor& x_TD, const Cell& cell, std::optional<double> loss_scale,
                  std::span<at::Tensor> gradients, std::span<at::Tensor> tied_gradients,
                  std::span<const int64_t> choices) override;
  at::Tensor BlockBackward(int layer, const at::Tensor& dy_TD, const Cell& cell,
                           const BlockSaved& saved, std::span<at::Tensor> gradients,
                           bool need_dx) override;
  void EmbedBackward(const at::Tensor& dx_TD, const Cell& cell,
                     std::span<at::Tensor> gradients) override;
  at::Tensor HeadLogits(const at::Tensor& x_TD) override;

 private:
  // d loss / d logit of each supervised token.
  at::Tensor Residuals(const at::Tensor& w, const Cell& cell) const;

  const int64_t bad_step_;
  int64_t step_ = 0;
  ModelConfig config_;
  std::vector<ParameterUnit> units_;
  const std::vector<ParameterUnit> frozen_units_ = {
      {.name = "embed"}, {.name = "layers.0"}, {.name = "head"}};
  at::Tensor w_, b_;
};

}  // namespace anneal::trainer::testing
