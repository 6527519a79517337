#include "worker/trainer/model/head.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include "common/base/status.h"
#include "common/format/model_tensors.h"
#include "common/plan/memory_plan.h"
#include "worker/trainer/kernels/products.h"
#include "worker/trainer/model/weight_loader.h"

namespace anneal::trainer {

absl::StatusOr<std::unique_ptr<OutputHead>> OutputHead::Load(const Compute& compute,
                                                             const ModelConfig& config,
                                                             const ModelWeights& weights,
                                                             const LoraPlan* lora,
                                                             const at::Tensor* embedding) {
  std::unique_ptr<OutputHead> head(new OutputHead(compute, config, embedding));
  const std::vector<ExpectedTensor> tensors = HeadTensors(config);
  ANNEAL_ASSIGN_OR_RETURN(
      head->norm_place_,
      LoadParameter(compute, weights, {tensors[0].name, tensors[0].shape, /*weight_decay=*/false},
                    /*trainable=*/lora == nullptr, head->parameters_, &head->norm_D_));
  if (embedding == nullptr) {
    ANNEAL_ASSIGN_OR_RETURN(head->weight_place_,
                            LoadParameter(compute, weights, {tensors[1].name, tensors[1].shape},
                                          /*trainable=*/lora == nullptr || lora->head,
                                          head->parameters_, &head->weight_VD_));
  }
  return head;
}

HeadResult OutputHead::Run(const at::Tensor& x_TD, const Cell& cell,
                           std::optional<double> loss_scale, std::span<at::Tensor> gradients,
                           std::span<at::Tensor> tied_gradients,
                           std::span<const int64_t> choices) const {
  const at::Tensor x_SD = x_TD.index_select(0, cell.supervised_S);
  const at::Tensor norm_D = compute_.Cast(norm_D_), weight_VD = OutputWeight();
  const RmsNormResult norm =
      compute_.kernels.RmsNormForward(x_SD, norm_D, config_.rms_norm_epsilon);
  at::Tensor* const weight_gradient = weight_place_ >= 0        ? &gradients[weight_place_]
                                      : !tied_gradients.empty() ? &tied_gradients[0]
                                                                : nullptr;
  const at::Tensor choice_ids =
      choices.empty() ? at::Tensor()
                      : at::tensor(at::IntArrayRef(choices.data(), choices.size()), at::kLong)
                            .to(compute_.device);

  at::Tensor dnormed_SD = loss_scale ? at::empty_like(x_SD) : at::Tensor();
  std::vector<at::Tensor> losses, correct, choice_logits;
  const int64_t supervised = x_SD.size(0);
  const int64_t chunk = std::max<int64_t>(1, kLogitChunkBytes / (4 * config_.vocab_size));
  for (int64_t begin = 0; begin == 0 || begin < supervised; begin += chunk) {
    const int64_t count = std::min(chunk, supervised - begin);
    const at::Tensor normed = norm.y_TD.narrow(0, begin, count);
    const at::Tensor targets = cell.targets_S.narrow(0, begin, count);
    at::Tensor logits = Product(normed, weight_VD.t());
    CrossEntropyResult loss = compute_.kernels.CrossEntropyForward(logits, targets);
    losses.push_back(std::move(loss.losses_S));
    correct.push_back(std::move(loss.correct_S));
    if (choice_ids.defined()) choice_logits.push_back(logits.index_select(1, choice_ids));
    if (!loss_scale) continue;
    compute_.kernels.CrossEntropyBackwardInPlace(logits, targets, *loss_scale);
    at::Tensor dnormed = dnormed_SD.narrow(0, begin, count);
    ProductInto(dnormed, logits, weight_VD);
    if (weight_gradient != nullptr)
      WriteWeightGradient(logits, normed, 1, /*accumulate=*/begin > 0, *weight_gradient);
  }

  HeadResult result;
  result.losses_S = at::cat(losses);
  result.correct_S = at::cat(correct);
  if (choice_ids.defined()) result.choice_logits_SN = at::cat(choice_logits);
  if (loss_scale) {
    RmsNormGradients back = compute_.kernels.RmsNormBackward(dnormed_SD, x_SD, norm_D,
                                                             norm.inverse_rms_T, norm_place_ >= 0);
    if (norm_place_ >= 0) gradients[norm_place_].copy_(back.dweight_D);
    result.dx_TD = at::zeros_like(x_TD).index_copy_(0, cell.supervised_S, back.dx_TD);
  }
  return result;
}

at::Tensor OutputHead::Logits(const at::Tensor& x_TD) const {
  const RmsNormResult norm =
      compute_.kernels.RmsNormForward(x_TD, compute_.Cast(norm_D_), config_.rms_norm_epsilon);
  return Product(norm.y_TD, OutputWeight().t());
}

}  // namespace anneal::trainer
