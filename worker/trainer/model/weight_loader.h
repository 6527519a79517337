#pragma once
// Copies stored weights into tensors of compute type.

#include "absl/status/statusor.h"
#include "common/format/model_weights.h"
#include "worker/trainer/model/compute.h"

namespace anneal::trainer {

// INVALID_ARGUMENT names the file and the tensor if it holds NaN or infinity. `weights` has been
// checked against the config.
absl::StatusOr<at::Tensor> LoadWeight(const ModelWeights& weights, const std::string& name,
                                      const Compute& compute);

}  // namespace anneal::trainer
