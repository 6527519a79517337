#include "worker/trainer/model/weight_loader.h"

#include <ATen/ops/aminmax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <cmath>
#include <cstring>
#include <tuple>

#include "absl/strings/str_cat.h"
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
  const TensorView& view = *it->second.view;
  // A copy of the bytes: the file promises no alignment.
  at::Tensor stored = at::empty(view.shape, TorchType(view.dtype));
  std::memcpy(stored.mutable_data_ptr(), view.bytes.data(), view.bytes.size());
  const auto [low, high] = at::aminmax(stored);  // NaN spreads to both
  if (!std::isfinite(low.item<double>()) || !std::isfinite(high.item<double>())) {
    return absl::InvalidArgumentError(
        absl::StrCat(it->second.file->path(), ": tensor \"", name, "\" holds NaN or infinity"));
  }
  return stored.to(device, type);
}

}  // namespace anneal::trainer
