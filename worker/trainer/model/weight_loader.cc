#include "worker/trainer/model/weight_loader.h"

#include <ATen/ops/empty.h>

#include <cstring>

#include "common/base/status.h"

namespace anneal::trainer {
namespace {

at::ScalarType TorchType(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return at::kFloat;
    case DType::kF16:
      return at::kHalf;
    case DType::kBf16:
      return at::kBFloat16;
    default:
      ANNEAL_CHECK(false && "ModelWeights::CheckAgainst admits floating-point tensors only");
  }
}

}  // namespace

absl::StatusOr<at::Tensor> LoadWeight(const ModelWeights& weights, const std::string& name,
                                      at::Device device, at::ScalarType type) {
  const auto it = weights.tensors().find(name);
  ANNEAL_CHECK(it != weights.tensors().end());
  ANNEAL_RETURN_IF_ERROR(ModelWeights::CheckFinite(name, it->second));
  const TensorView& view = *it->second.view;
  // A copy of the bytes: the file promises no alignment.
  at::Tensor stored = at::empty(view.shape, TorchType(view.dtype));
  std::memcpy(stored.mutable_data_ptr(), view.bytes.data(), view.bytes.size());
  return stored.to(device, type);
}

absl::StatusOr<int> LoadParameter(const Compute& compute, const ModelWeights& weights,
                                  const ParameterSpec& spec, bool trainable, ParameterList& list,
                                  at::Tensor* tensor) {
  if (!compute.lent) {
    ANNEAL_ASSIGN_OR_RETURN(*tensor, LoadWeight(weights, spec.name, compute.device,
                                                trainable ? compute.master_type() : compute.type));
  } else if (!trainable) {
    list.AddFrozen(spec, tensor);
  }
  return trainable ? list.Add(spec, tensor, ParameterList::Initial::kLoaded) : -1;
}

}  // namespace anneal::trainer
