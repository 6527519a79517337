#pragma once
// A tiny random llama written to a folder, for tests of everything that loads a model.

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

#include "common/format/model_config.h"
#include "worker/trainer/data/micro_batch.h"

namespace anneal::trainer::testing {

struct TinyModel {
  ModelConfig config;
  std::map<std::string, at::Tensor> weights;  // fp32, as stored
};

// 2 layers, width 32, 4 query and 2 key heads, 97 tokens, of which the tokenizer knows four; 3 is
// its eos token, 2 the config's. `dtype` of the stored weights: F32, F16 or BF16.
TinyModel WriteTinyModel(const std::string& dir, bool tied, at::ScalarType dtype = at::kFloat);

// Two packed rows of 9 and 7 tokens (data rows 5 and 3), supervised at six positions.
MicroBatch TinyBatch(const ModelConfig& config);

}  // namespace anneal::trainer::testing
