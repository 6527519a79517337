#pragma once
// Copies stored weights into tensors.

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "common/format/model_weights.h"

namespace anneal::trainer {

// INVALID_ARGUMENT names the file and the tensor if it holds NaN or infinity. `weights` has been
// checked against the config.
absl::StatusOr<at::Tensor> LoadWeight(const ModelWeights& weights, const std::string& name,
                                      at::Device device, at::ScalarType type);

}  // namespace anneal::trainer
