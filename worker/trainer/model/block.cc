#include "worker/trainer/model/block.h"

#include "common/base/status.h"
#include "worker/trainer/model/weight_loader.h"

namespace anneal::trainer {

absl::StatusOr<std::unique_ptr<Block>> Block::Load(const Compute& compute,
                                                   const ModelConfig& config, int64_t layer,
                                                   const ModelWeights& weights,
                                                   const protocol::LoraOptions* lora,
                                                   const std::vector<bool>& adapted) {
  std::unique_ptr<Block> block(new Block(compute, config));
  const std::vector<ExpectedTensor> tensors = BlockTensors(config, layer);
  const std::vector<LinearModule> linears = BlockLinears(config, layer);
  ANNEAL_CHECK(linears.size() == kLinears && tensors.size() == kLinears + 2);
  Norm* const norms[] = {&block->input_norm_, &block->middle_norm_};
  for (int i = 0; i < 2; ++i) {
    ANNEAL_ASSIGN_OR_RETURN(norms[i]->weight_D,
                            LoadWeight(weights, tensors[i].name, compute.device, compute.type));
    if (lora != nullptr) continue;
    norms[i]->place =
        block->trainable_.Add({tensors[i].name, tensors[i].shape, /*weight_decay=*/false},
                              &norms[i]->weight_D, TrainableList::Initial::kLoaded);
  }
  for (int i = 0; i < kLinears; ++i) {
    ANNEAL_ASSIGN_OR_RETURN(at::Tensor weight,
                            LoadWeight(weights, tensors[2 + i].name, compute.device, compute.type));
    block->linears_[i] = std::make_unique<Linear>(compute, linears[i], std::move(weight));
    if (lora == nullptr) {
      block->linears_[i]->MakeTrainable(block->trainable_);
    } else if (adapted[i]) {
      block->linears_[i]->AddLora(*lora, block->trainable_);
    }
  }
  return block;
}

RmsNormResult Block::Normalise(const Norm& norm, const at::Tensor& x_TD) const {
  return compute_.kernels.RmsNormForward(x_TD, compute_.Cast(norm.weight_D),
                                         config_.rms_norm_epsilon);
}

at::Tensor Block::NormBackward(const Norm& norm, const at::Tensor& dh_TD, const at::Tensor& x_TD,
                               const at::Tensor& inverse_rms_T,
                               std::span<at::Tensor> gradients) const {
  RmsNormGradients out =
      compute_.kernels.RmsNormBackward(dh_TD, x_TD, compute_.Cast(norm.weight_D), inverse_rms_T,
                                       /*need_weight_gradient=*/norm.place >= 0);
  if (norm.place >= 0) gradients[norm.place].copy_(out.dweight_D);
  return out.dx_TD;
}

at::Tensor Block::Forward(const at::Tensor& x_TD, const Cell& cell, BlockSaved* saved) const {
  const int64_t tokens = x_TD.size(0);
  std::vector<at::Tensor> keep(kSavedCount);
  const auto apply = [&](LinearIndex linear, const at::Tensor& x) {
    return linears_[linear]->Forward(x, cell.places, &keep[LowRankPlace(linear)]);
  };

  RmsNormResult norm = Normalise(input_norm_, x_TD);
  at::Tensor q_THC = apply(kQ, norm.y_TD).view({tokens, config_.heads, config_.head_dim});
  at::Tensor k_TKC = apply(kK, norm.y_TD).view({tokens, config_.kv_heads, config_.head_dim});
  at::Tensor v_TKC = apply(kV, norm.y_TD).view({tokens, config_.kv_heads, config_.head_dim});
  compute_.kernels.RotaryInPlace(q_THC, cell.cos_TC, cell.sin_TC, /*inverse=*/false);
  compute_.kernels.RotaryInPlace(k_TKC, cell.cos_TC, cell.sin_TC, /*inverse=*/false);
  const AttentionResult attention =
      compute_.kernels.AttentionForward(q_THC, k_TKC, v_TKC, cell.rows, scale_, /*window=*/0);
  const at::Tensor middle_TD = apply(kO, attention.out_THC.view({tokens, -1})).add_(x_TD);

  const RmsNormResult middle_norm = Normalise(middle_norm_, middle_TD);
  const at::Tensor gate_TF = apply(kGate, middle_norm.y_TD);
  const at::Tensor up_TF = apply(kUp, middle_norm.y_TD);
  at::Tensor y_TD = apply(kDown, compute_.kernels.SwigluForward(gate_TF, up_TF)).add_(middle_TD);

  if (saved != nullptr) {
    keep[kInput] = x_TD;
    keep[kInputRms] = norm.inverse_rms_T;
    keep[kQuery] = q_THC;
    keep[kKey] = k_TKC;
    keep[kValue] = v_TKC;
    keep[kAttention] = attention.out_THC;
    keep[kAttentionStatistics] = attention.log_sum_exp;
    keep[kMiddle] = middle_TD;
    keep[kMiddleRms] = middle_norm.inverse_rms_T;
    keep[kGateOut] = gate_TF;
    keep[kUpOut] = up_TF;
    saved->tensors = std::move(keep);
  }
  return y_TD;
}

at::Tensor Block::FeedForwardBackward(const at::Tensor& dy_TD, const Cell& cell,
                                      const BlockSaved& saved,
                                      std::span<at::Tensor> gradients) const {
  const std::vector<at::Tensor>& kept = saved.tensors;
  at::Tensor dhidden_TF;
  {
    at::Tensor hidden_TF;
    if (linears_[kDown]->backward_needs_input()) {
      hidden_TF = compute_.kernels.SwigluForward(kept[kGateOut], kept[kUpOut]);
    }
    linears_[kDown]->Backward(dy_TD, hidden_TF, kept[LowRankPlace(kDown)], cell.places, gradients,
                              &dhidden_TF);
  }
  const SwigluGradients gated =
      compute_.kernels.SwigluBackward(dhidden_TF, kept[kGateOut], kept[kUpOut]);
  at::Tensor normed_TD, dnormed_TD;
  if (linears_[kGate]->backward_needs_input() || linears_[kUp]->backward_needs_input()) {
    normed_TD = Normalise(middle_norm_, kept[kMiddle]).y_TD;
  }
  linears_[kGate]->Backward(gated.dgate_TF, normed_TD, kept[LowRankPlace(kGate)], cell.places,
                            gradients, &dnormed_TD);
  linears_[kUp]->Backward(gated.dup_TF, normed_TD, kept[LowRankPlace(kUp)], cell.places, gradients,
                          &dnormed_TD);
  return NormBackward(middle_norm_, dnormed_TD, kept[kMiddle], kept[kMiddleRms], gradients)
      .add_(dy_TD);
}

at::Tensor Block::Backward(const at::Tensor& dy_TD, const Cell& cell, const BlockSaved& saved,
                           std::span<at::Tensor> gradients, bool need_dx) const {
  const std::vector<at::Tensor>& kept = saved.tensors;
  const int64_t tokens = dy_TD.size(0);
  const at::Tensor dmiddle_TD = FeedForwardBackward(dy_TD, cell, saved, gradients);

  at::Tensor dattention_TD;
  linears_[kO]->Backward(dmiddle_TD, kept[kAttention].view({tokens, -1}), kept[LowRankPlace(kO)],
                         cell.places, gradients, &dattention_TD);
  AttentionGradients attention = compute_.kernels.AttentionBackward(
      dattention_TD.view_as(kept[kAttention]), kept[kQuery], kept[kKey], kept[kValue],
      {kept[kAttention], kept[kAttentionStatistics]}, cell.rows, scale_, /*window=*/0);
  compute_.kernels.RotaryInPlace(attention.dq_THC, cell.cos_TC, cell.sin_TC, /*inverse=*/true);
  compute_.kernels.RotaryInPlace(attention.dk_TKC, cell.cos_TC, cell.sin_TC, /*inverse=*/true);

  at::Tensor normed_TD, dnormed_TD;
  const std::pair<LinearIndex, const at::Tensor*> projections[] = {
      {kQ, &attention.dq_THC}, {kK, &attention.dk_TKC}, {kV, &attention.dv_TKC}};
  for (const auto& [linear, dout] : projections) {
    if (linears_[linear]->backward_needs_input() && !normed_TD.defined()) {
      normed_TD = Normalise(input_norm_, kept[kInput]).y_TD;
    }
  }
  // The first norm's weight also needs the gradient of what it put out.
  const bool need_dnormed = need_dx || input_norm_.place >= 0;
  for (const auto& [linear, dout] : projections) {
    linears_[linear]->Backward(dout->view({tokens, -1}), normed_TD, kept[LowRankPlace(linear)],
                               cell.places, gradients, need_dnormed ? &dnormed_TD : nullptr);
  }
  if (!need_dnormed) return {};
  at::Tensor dx_TD =
      NormBackward(input_norm_, dnormed_TD, kept[kInput], kept[kInputRms], gradients);
  return need_dx ? dx_TD.add_(dmiddle_TD) : at::Tensor();
}

}  // namespace anneal::trainer
