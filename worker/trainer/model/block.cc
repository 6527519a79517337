#include "worker/trainer/model/block.h"

#include "common/base/status.h"
#include "common/format/model_tensors.h"
#include "worker/trainer/model/weight_loader.h"

namespace anneal::trainer {

absl::StatusOr<std::unique_ptr<Block>> Block::Load(const Compute& compute,
                                                   const ModelConfig& config, int64_t layer,
                                                   const ModelWeights& weights,
                                                   const LoraPlan* lora) {
  std::unique_ptr<Block> block(new Block(compute, config, layer));
  const std::vector<NormModule> norms = BlockNorms(config, layer);
  const std::vector<LinearModule> linears = BlockLinears(config, layer);
  ANNEAL_CHECK(norms.size() <= kNorms && linears.size() == kLinears);
  for (size_t i = 0; i < norms.size(); ++i) {
    Norm& norm = block->norms_[i];
    ANNEAL_ASSIGN_OR_RETURN(
        norm.place,
        LoadParameter(compute, weights,
                      {norms[i].name + ".weight", {norms[i].width}, /*weight_decay=*/false},
                      /*trainable=*/lora == nullptr, block->parameters_, &norm.weight_D));
  }
  for (int i = 0; i < kLinears; ++i) {
    ANNEAL_ASSIGN_OR_RETURN(block->linears_[i],
                            Linear::Load(compute, linears[i], weights,
                                         /*trainable=*/lora == nullptr, block->parameters_));
    if (lora != nullptr && lora->linears[layer][i])
      block->linears_[i]->AddLora(*lora->linears[layer][i], block->parameters_);
  }
  return block;
}

RmsNormResult Block::Normalise(NormIndex norm, const at::Tensor& x_TD) const {
  return compute_.kernels.RmsNormForward(x_TD, compute_.Cast(norms_[norm].weight_D),
                                         config_.rms_norm_epsilon);
}

at::Tensor Block::NormBackward(NormIndex norm, const at::Tensor& dh_TD, const at::Tensor& x_TD,
                               const at::Tensor& inverse_rms_T,
                               std::span<at::Tensor> gradients) const {
  const Norm& part = norms_[norm];
  RmsNormGradients out =
      compute_.kernels.RmsNormBackward(dh_TD, x_TD, compute_.Cast(part.weight_D), inverse_rms_T,
                                       /*need_weight_gradient=*/part.place >= 0);
  if (part.place >= 0) gradients[part.place].copy_(out.dweight_D);
  return out.dx_TD;
}

at::Tensor Block::Position(NormIndex norm, at::Tensor projected_THC, const Cell& cell,
                           at::Tensor* norm_input, at::Tensor* norm_rms) const {
  if (config_.query_key_norm) {
    const RmsNormResult normed = Normalise(norm, projected_THC);
    *norm_input = std::move(projected_THC);
    *norm_rms = normed.inverse_rms_T;
    projected_THC = normed.y_TD;
  }
  compute_.kernels.RotaryInPlace(projected_THC, cell.cos_TC, cell.sin_TC, /*inverse=*/false);
  return projected_THC;
}

at::Tensor Block::PositionBackward(NormIndex norm, at::Tensor d_THC, const Cell& cell,
                                   const at::Tensor& norm_input, const at::Tensor& norm_rms,
                                   std::span<at::Tensor> gradients) const {
  compute_.kernels.RotaryInPlace(d_THC, cell.cos_TC, cell.sin_TC, /*inverse=*/true);
  if (!config_.query_key_norm) return d_THC;
  return NormBackward(norm, d_THC, norm_input, norm_rms, gradients);
}

at::Tensor Block::Forward(const at::Tensor& x_TD, const Cell& cell, BlockSaved* saved) const {
  const int64_t tokens = x_TD.size(0);
  std::vector<at::Tensor> keep(kSavedCount);
  const auto apply = [&](LinearIndex linear, const at::Tensor& x) {
    return linears_[linear]->Forward(x, cell.places, &keep[LowRankPlace(linear)]);
  };

  const auto heads = [&](LinearIndex linear, const at::Tensor& x, int64_t count) {
    return apply(linear, x).view({tokens, count, config_.head_dim});
  };

  const RmsNormResult norm = Normalise(kInputNorm, x_TD);
  const at::Tensor q_THC = Position(kQueryNorm, heads(kQ, norm.y_TD, config_.heads), cell,
                                    &keep[kQueryInput], &keep[kQueryRms]);
  const at::Tensor k_TKC = Position(kKeyNorm, heads(kK, norm.y_TD, config_.kv_heads), cell,
                                    &keep[kKeyInput], &keep[kKeyRms]);
  const at::Tensor v_TKC = heads(kV, norm.y_TD, config_.kv_heads);
  const AttentionResult attention =
      compute_.kernels.AttentionForward(q_THC, k_TKC, v_TKC, cell.rows, scale_, window_);
  const at::Tensor middle_TD = apply(kO, attention.out_THC.view({tokens, -1})).add_(x_TD);

  const RmsNormResult middle_norm = Normalise(kMiddleNorm, middle_TD);
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
    normed_TD = Normalise(kMiddleNorm, kept[kMiddle]).y_TD;
  }
  linears_[kGate]->Backward(gated.dgate_TF, normed_TD, kept[LowRankPlace(kGate)], cell.places,
                            gradients, &dnormed_TD);
  linears_[kUp]->Backward(gated.dup_TF, normed_TD, kept[LowRankPlace(kUp)], cell.places, gradients,
                          &dnormed_TD);
  return NormBackward(kMiddleNorm, dnormed_TD, kept[kMiddle], kept[kMiddleRms], gradients)
      .add_(dy_TD);
}

AttentionGradients Block::AttentionBackward(const at::Tensor& dmiddle_TD, const Cell& cell,
                                            const BlockSaved& saved,
                                            std::span<at::Tensor> gradients) const {
  const std::vector<at::Tensor>& kept = saved.tensors;
  at::Tensor dout_TD;
  linears_[kO]->Backward(dmiddle_TD, kept[kAttention].view({dmiddle_TD.size(0), -1}),
                         kept[LowRankPlace(kO)], cell.places, gradients, &dout_TD);
  AttentionGradients out = compute_.kernels.AttentionBackward(
      dout_TD.view_as(kept[kAttention]), kept[kQuery], kept[kKey], kept[kValue],
      {kept[kAttention], kept[kAttentionStatistics]}, cell.rows, scale_, window_);
  out.dq_THC =
      PositionBackward(kQueryNorm, out.dq_THC, cell, kept[kQueryInput], kept[kQueryRms], gradients);
  out.dk_TKC =
      PositionBackward(kKeyNorm, out.dk_TKC, cell, kept[kKeyInput], kept[kKeyRms], gradients);
  return out;
}

at::Tensor Block::Backward(const at::Tensor& dy_TD, const Cell& cell, const BlockSaved& saved,
                           std::span<at::Tensor> gradients, bool need_dx) const {
  const std::vector<at::Tensor>& kept = saved.tensors;
  const int64_t tokens = dy_TD.size(0);
  const at::Tensor dmiddle_TD = FeedForwardBackward(dy_TD, cell, saved, gradients);
  const AttentionGradients attention = AttentionBackward(dmiddle_TD, cell, saved, gradients);

  at::Tensor normed_TD, dnormed_TD;
  const std::pair<LinearIndex, const at::Tensor*> projections[] = {
      {kQ, &attention.dq_THC}, {kK, &attention.dk_TKC}, {kV, &attention.dv_TKC}};
  for (const auto& [linear, dout] : projections) {
    if (linears_[linear]->backward_needs_input() && !normed_TD.defined()) {
      normed_TD = Normalise(kInputNorm, kept[kInput]).y_TD;
    }
  }
  // The first norm's weight also needs the gradient of what it put out.
  const bool need_dnormed = need_dx || norms_[kInputNorm].place >= 0;
  for (const auto& [linear, dout] : projections) {
    linears_[linear]->Backward(dout->view({tokens, -1}), normed_TD, kept[LowRankPlace(linear)],
                               cell.places, gradients, need_dnormed ? &dnormed_TD : nullptr);
  }
  if (!need_dnormed) return {};
  at::Tensor dx_TD = NormBackward(kInputNorm, dnormed_TD, kept[kInput], kept[kInputRms], gradients);
  return need_dx ? dx_TD.add_(dmiddle_TD) : at::Tensor();
}

}  // namespace anneal::trainer
