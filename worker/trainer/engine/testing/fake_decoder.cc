#include "worker/trainer/engine/testing/fake_decoder.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <limits>

#include "common/base/status.h"

namespace anneal::trainer::testing {

FakeDecoder::FakeDecoder(int64_t bad_step) : bad_step_(bad_step) {
  config_.layers = 1;
  config_.vocab_size = kFakeVocabulary;
  config_.max_positions = 1024;
  units_ = {{.name = "embed"},
            {.name = "layers.0", .parameters = {{.name = "w", .shape = {kFakeVocabulary}}}},
            {.name = "head", .parameters = {{.name = "b", .shape = {1}, .weight_decay = false}}}};
}

absl::Status FakeDecoder::InitialValues(int unit, uint64_t, std::span<at::Tensor> values) {
  if (unit == 1) values[0].copy_(at::arange(kFakeVocabulary).div(100.0));
  if (unit == 2) values[0].fill_(0.1);
  return absl::OkStatus();
}

void FakeDecoder::Bind(int unit, std::span<const at::Tensor> values) {
  (unit == 1 ? w_ : b_) = values[0];
}

Cell FakeDecoder::MakeCell(const MicroBatch& batch) const {
  Cell cell;
  cell.targets_S = at::tensor(batch.targets, at::kLong);
  return cell;
}

void FakeDecoder::SetDropoutKey(std::optional<std::pair<uint64_t, int64_t>> seed_and_step) {
  step_ = seed_and_step.has_value() ? seed_and_step->second : 0;
}

at::Tensor FakeDecoder::EmbedForward(const Cell&) { return at::zeros({1, 1}); }

at::Tensor FakeDecoder::BlockForward(int, const at::Tensor& x_TD, const Cell&, BlockSaved* saved) {
  if (saved != nullptr) saved->tensors = {x_TD};
  return w_.clone();
}

at::Tensor FakeDecoder::Residuals(const at::Tensor& w, const Cell& cell) const {
  at::Tensor residuals = w.index_select(0, cell.targets_S).add(b_).sub(1);
  if (bad_step_ != 0 && step_ >= bad_step_)
    residuals.fill_(std::numeric_limits<float>::quiet_NaN());
  return residuals;
}

HeadResult FakeDecoder::Head(const at::Tensor& x_TD, const Cell& cell,
                             std::optional<double> loss_scale, std::span<at::Tensor> gradients,
                             std::span<at::Tensor>, std::span<const int64_t> choices) {
  const at::Tensor residuals = Residuals(x_TD, cell);
  HeadResult result{.losses_S = residuals.square().div(2), .correct_S = residuals.gt(-0.5)};
  if (loss_scale.has_value()) {
    result.dx_TD = residuals.mul(*loss_scale);
    gradients[0].copy_(result.dx_TD.sum().view({1}));
  }
  if (!choices.empty()) {
    const at::Tensor tokens =
        at::tensor(std::vector<int64_t>(choices.begin(), choices.end()), at::kLong);
    result.choice_logits_SN = x_TD.index_select(0, tokens).add(b_).expand({residuals.numel(), -1});
  }
  return result;
}

at::Tensor FakeDecoder::BlockBackward(int, const at::Tensor& dy_TD, const Cell& cell,
                                      const BlockSaved& saved, std::span<at::Tensor> gradients,
                                      bool need_dx) {
  ANNEAL_CHECK(saved.tensors.size() == 1 && !need_dx);
  gradients[0].zero_();
  gradients[0].index_add_(0, cell.targets_S, dy_TD);
  return {};
}

void FakeDecoder::EmbedBackward(const at::Tensor&, const Cell&, std::span<at::Tensor>) {
  ANNEAL_CHECK(false);
}

at::Tensor FakeDecoder::HeadLogits(const at::Tensor& x_TD) {
  return x_TD.add(b_).view({1, kFakeVocabulary});
}

}  // namespace anneal::trainer::testing
