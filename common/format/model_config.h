#pragma once
// What a Hugging Face config.json says about a decoder-only model.
//
// The families are llama, mistral, qwen2 and qwen3; absent keys mean what they mean to
// transformers' configuration class of that family. Only what the trainer computes faithfully is
// accepted; anything that would change the arithmetic and is not known here is refused by name,
// never ignored. Old and new spellings are read (rope_theta and rope_scaling / rope_parameters,
// torch_dtype / dtype).

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/format/json.h"

namespace anneal {

// Rotary frequencies stretched for long contexts, rope_type "llama3" (Llama 3.1).
struct Llama3Rope {
  double factor = 0;
  double low_frequency_factor = 0;
  double high_frequency_factor = 0;
  int64_t original_max_positions = 0;
};

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
  std::optional<Llama3Rope> llama3_rope;  // absent = frequencies as they are
  bool tie_word_embeddings = false;
  bool query_key_value_bias = false;
  bool attention_output_bias = false;
  bool mlp_bias = false;
  bool query_key_norm = false;  // an RMS norm over each head of q and k, before the rotation
  // By layer: position p attends to (p - window, p]. 0 = to all before it.
  std::vector<int64_t> attention_windows;
  std::vector<int64_t> eos_token_ids;
  // The row of the input embedding that gets no gradient (torch.nn.Embedding's padding_idx); a tied
  // head still trains it.
  std::optional<int64_t> padding_token_id;
};

// INVALID_ARGUMENT names the field, what it holds and what is supported.
absl::StatusOr<ModelConfig> ParseModelConfig(const Json& json);
// Reads <model_dir>/config.json; errors name the file.
absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& model_dir);

}  // namespace anneal
