#pragma once
// Which modules and tensors a model has by its config, under the names of Hugging Face checkpoints.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/format/model_config.h"

namespace anneal {

// A tensor that a model has by its config, named as in the checkpoint.
struct ExpectedTensor {
  std::string name;
  std::vector<int64_t> shape;
};
// A linear layer of a block, y = x W^T (+ bias): what LoRA can adapt. `name` lacks ".weight".
struct LinearModule {
  std::string name;  // "model.layers.3.self_attn.q_proj"
  int64_t out_features = 0;
  int64_t in_features = 0;
  bool has_bias = false;
};
// An RMS norm of a block.
struct NormModule {
  std::string name;  // "model.layers.3.input_layernorm"
  int64_t width = 0;
};

inline constexpr char kEmbeddingModule[] = "model.embed_tokens";
inline constexpr char kHeadModule[] = "lm_head";

// Whether a user's name means the module: its whole name, or its end after a dot ("up_proj",
// "mlp.up_proj"), as in peft.
bool NamesModule(absl::string_view module, absl::string_view name);

// In canonical order: by unit (embedding, blocks, head), as they are used within a block.
std::vector<ExpectedTensor> EmbeddingTensors(const ModelConfig& config);
std::vector<ExpectedTensor> BlockTensors(const ModelConfig& config, int64_t layer);
// The final norm, and lm_head unless it is tied.
std::vector<ExpectedTensor> HeadTensors(const ModelConfig& config);
std::vector<ExpectedTensor> AllTensors(const ModelConfig& config);
// The norms of one block: before attention, before the feed-forward part, and with query_key_norm
// those of q and k.
std::vector<NormModule> BlockNorms(const ModelConfig& config, int64_t layer);
// The linear layers of one block: q, k, v, o, gate, up, down; lm_head is not among them.
std::vector<LinearModule> BlockLinears(const ModelConfig& config, int64_t layer);

int64_t ParameterCount(const ModelConfig& config);

}  // namespace anneal
