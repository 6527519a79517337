#pragma once
// The same model from plain ATen operators with autograd, written after transformers'
// modeling_llama.py: what the hand-written decoder is checked against.

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

#include "common/format/model_config.h"
#include "worker/trainer/data/micro_batch.h"

namespace anneal::trainer::testing {

struct ReferenceLora {
  double scale = 0;
  std::map<std::string, at::Tensor> weights;  // "<module>.lora_A.weight", "<module>.lora_B.weight"
};

// Logits at every position, [T, V], in the weights' type.
at::Tensor ReferenceLogits(const ModelConfig& config,
                           const std::map<std::string, at::Tensor>& weights,
                           const ReferenceLora& lora, const MicroBatch& batch);

}  // namespace anneal::trainer::testing
