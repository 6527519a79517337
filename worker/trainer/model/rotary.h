#pragma once
// The angles of rotary position embeddings (arXiv:2104.09864), stretched as Llama 3.1 does where
// the config says so.

#include <ATen/core/Tensor.h>

#include <vector>

#include "common/format/model_config.h"

namespace anneal::trainer {

// fp32 [C / 2]: theta^(-2i / C), in transformers' own operators and order
// (modeling_rope_utils.py), so that the angles have its bits.
at::Tensor RotaryFrequencies(const ModelConfig& config);

// fp32 [T, C / 2] on the CPU.
struct RotaryTables {
  at::Tensor cos_TC, sin_TC;
};
RotaryTables MakeRotaryTables(const at::Tensor& frequencies, const std::vector<int64_t>& positions);

}  // namespace anneal::trainer
