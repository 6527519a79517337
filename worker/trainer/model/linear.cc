#include "worker/trainer/model/linear.h"

#include "common/base/status.h"
#include "worker/trainer/kernels/products.h"
#include "worker/trainer/model/weight_loader.h"

namespace anneal::trainer {

absl::StatusOr<std::unique_ptr<Linear>> Linear::Load(const Compute& compute,
                                                     const LinearModule& module,
                                                     const ModelWeights& weights, bool trainable,
                                                     ParameterList& list) {
  std::unique_ptr<Linear> linear(new Linear(compute, module));
  ANNEAL_ASSIGN_OR_RETURN(
      linear->weight_place_,
      LoadParameter(compute, weights,
                    {module.name + ".weight", {module.out_features, module.in_features}}, trainable,
                    list, &linear->weight_));
  if (module.has_bias) {
    ANNEAL_ASSIGN_OR_RETURN(
        linear->bias_place_,
        LoadParameter(compute, weights,
                      {module.name + ".bias", {module.out_features}, /*weight_decay=*/false},
                      trainable, list, &linear->bias_));
  }
  return linear;
}

void Linear::AddLora(const LoraShape& shape, ParameterList& list) {
  scale_ = shape.scale;
  a_place_ = list.Add({module_.name + ".lora_A.weight", {shape.rank, module_.in_features}}, &a_,
                      ParameterList::Initial::kUniform);
  b_place_ = list.Add({module_.name + ".lora_B.weight", {module_.out_features, shape.rank}}, &b_,
                      ParameterList::Initial::kZero);
}

at::Tensor Linear::Dropout(const at::Tensor& x, const TokenPlaces& places) const {
  if (compute_.dropout_rate == 0 || !compute_.dropout_key) return x;
  const auto& [seed, step] = *compute_.dropout_key;
  return compute_.kernels.Dropout(x, MakePhiloxKey(seed, step, module_.name), compute_.dropout_rate,
                                  places);
}

at::Tensor Linear::Forward(const at::Tensor& x, const TokenPlaces& places,
                           at::Tensor* low_rank) const {
  at::Tensor y = Product(x, compute_.Cast(weight_).t());
  if (module_.has_bias) y.add_(compute_.Cast(bias_));
  if (a_place_ >= 0) {
    *low_rank = Product(Dropout(x, places), compute_.Cast(a_).t());
    AddProduct(y, *low_rank, compute_.Cast(b_).t(), scale_);
  }
  return y;
}

void Linear::Backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& low_rank,
                      const TokenPlaces& places, std::span<at::Tensor> gradients,
                      at::Tensor* dx) const {
  if (weight_place_ >= 0)
    WriteWeightGradient(dy, x, 1, /*accumulate=*/false, gradients[weight_place_]);
  if (bias_place_ >= 0) gradients[bias_place_].copy_(compute_.kernels.SumRows(dy));
  if (dx != nullptr) {
    if (dx->defined()) {
      AddProduct(*dx, dy, compute_.Cast(weight_));
    } else {
      *dx = Product(dy, compute_.Cast(weight_));
    }
  }
  if (a_place_ < 0) return;
  WriteWeightGradient(dy, low_rank, scale_, /*accumulate=*/false, gradients[b_place_]);
  const at::Tensor dlow_rank = Product(dy, compute_.Cast(b_)).mul_(scale_);
  WriteWeightGradient(dlow_rank, Dropout(x, places), 1, /*accumulate=*/false, gradients[a_place_]);
  if (dx == nullptr) return;
  if (compute_.dropout_rate == 0 || !compute_.dropout_key) {
    AddProduct(*dx, dlow_rank, compute_.Cast(a_));
  } else {
    dx->add_(Dropout(Product(dlow_rank, compute_.Cast(a_)), places));
  }
}

}  // namespace anneal::trainer
