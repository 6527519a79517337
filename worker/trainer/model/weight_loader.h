#pragma once
// Copies stored weights into tensors.

#include <ATen/core/Tensor.h>

#include <string>

#include "absl/status/statusor.h"
#include "common/format/model_weights.h"
#include "worker/trainer/model/compute.h"

namespace anneal::trainer {

// INVALID_ARGUMENT names the file and the tensor if it holds NaN or infinity. `weights` has been
// checked against the config.
absl::StatusOr<at::Tensor> LoadWeight(const ModelWeights& weights, const std::string& name,
                                      at::Device device, at::ScalarType type);

// Loads the parameter into `tensor`: a trainable one in the type of masters, entered in the list,
// of which the place is returned; a frozen one in compute type, place -1. Where weights are lent
// nothing is loaded, and frozen ones are entered too.
absl::StatusOr<int> LoadParameter(const Compute& compute, const ModelWeights& weights,
                                  const ParameterSpec& spec, bool trainable, ParameterList& list,
                                  at::Tensor* tensor);

}  // namespace anneal::trainer
