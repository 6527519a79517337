#pragma once
// What a Hugging Face config.json says about a decoder-only model, and which tensors such a model
// must have.
//
// Only what the trainer computes faithfully is accepted; anything that would change the arithmetic
// and is not known here is refused by name, never ignored. Old and new spellings are read
// (rope_theta / rope_parameters, torch_dtype / dtype).

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/format/json.h"

namespace anneal {

struct ModelConfig {
  std::string family;        // model_type: "llama"
  std::string architecture;  // "LlamaForCausalLM"
  std::string dtype;         // of the stored weights: "bfloat16"; empty if not said
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_positions = 0;
  double rms_norm_epsilon = 0;
  double rope_theta = 0;
  bool tie_word_embeddings = false;
  std::vector<int64_t> eos_token_ids;
};

// INVALID_ARGUMENT names the field, what it holds and what is supported.
absl::StatusOr<ModelConfig> ParseModelConfig(const Json& json);
// Reads <model_dir>/config.json; errors name the file.
absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& model_dir);

// A tensor that a model has by its config, named as in the checkpoint.
struct ExpectedTensor {
  std::string name;
  std::vector<int64_t> shape;
};
// A linear layer of a block, y = x W^T: what LoRA can adapt. `name` lacks ".weight".
struct LinearModule {
  std::string name;  // "model.layers.3.self_attn.q_proj"
  int64_t out_features = 0;
  int64_t in_features = 0;
};

// In canonical order: by unit (embedding, blocks, head), as they are used within a block.
std::vector<ExpectedTensor> EmbeddingTensors(const ModelConfig& config);
std::vector<ExpectedTensor> BlockTensors(const ModelConfig& config, int64_t layer);
// The final norm, and lm_head unless it is tied.
std::vector<ExpectedTensor> HeadTensors(const ModelConfig& config);
std::vector<ExpectedTensor> AllTensors(const ModelConfig& config);
// The linear layers of one block; lm_head is not among them.
std::vector<LinearModule> BlockLinears(const ModelConfig& config, int64_t layer);

int64_t ParameterCount(const ModelConfig& config);

}  // namespace anneal
