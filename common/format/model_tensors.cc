#include "common/format/model_tensors.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace anneal {
namespace {

std::string BlockPrefix(int64_t layer) { return absl::StrCat("model.layers.", layer, "."); }

}  // namespace

bool NamesModule(absl::string_view module, absl::string_view name) {
  return module == name || absl::EndsWith(module, absl::StrCat(".", name));
}

std::vector<ExpectedTensor> EmbeddingTensors(const ModelConfig& config) {
  return {{absl::StrCat(kEmbeddingModule, ".weight"), {config.vocab_size, config.hidden_size}}};
}

std::vector<NormModule> BlockNorms(const ModelConfig& config, int64_t layer) {
  const std::string prefix = BlockPrefix(layer);
  std::vector<NormModule> out = {{prefix + "input_layernorm", config.hidden_size},
                                 {prefix + "post_attention_layernorm", config.hidden_size}};
  if (config.query_key_norm) {
    out.push_back({prefix + "self_attn.q_norm", config.head_dim});
    out.push_back({prefix + "self_attn.k_norm", config.head_dim});
  }
  return out;
}

std::vector<LinearModule> BlockLinears(const ModelConfig& config, int64_t layer) {
  const std::string prefix = BlockPrefix(layer);
  const int64_t d = config.hidden_size, f = config.intermediate_size;
  const int64_t q = config.heads * config.head_dim, kv = config.kv_heads * config.head_dim;
  const bool qkv_bias = config.query_key_value_bias, mlp_bias = config.mlp_bias;
  return {{prefix + "self_attn.q_proj", q, d, qkv_bias},
          {prefix + "self_attn.k_proj", kv, d, qkv_bias},
          {prefix + "self_attn.v_proj", kv, d, qkv_bias},
          {prefix + "self_attn.o_proj", d, q, config.attention_output_bias},
          {prefix + "mlp.gate_proj", f, d, mlp_bias},
          {prefix + "mlp.up_proj", f, d, mlp_bias},
          {prefix + "mlp.down_proj", d, f, mlp_bias}};
}

std::vector<ExpectedTensor> BlockTensors(const ModelConfig& config, int64_t layer) {
  std::vector<ExpectedTensor> out;
  for (const NormModule& norm : BlockNorms(config, layer)) {
    out.push_back({norm.name + ".weight", {norm.width}});
  }
  for (const LinearModule& linear : BlockLinears(config, layer)) {
    out.push_back({linear.name + ".weight", {linear.out_features, linear.in_features}});
    if (linear.has_bias) out.push_back({linear.name + ".bias", {linear.out_features}});
  }
  return out;
}

std::vector<ExpectedTensor> HeadTensors(const ModelConfig& config) {
  std::vector<ExpectedTensor> out = {{"model.norm.weight", {config.hidden_size}}};
  if (!config.tie_word_embeddings)
    out.push_back({absl::StrCat(kHeadModule, ".weight"), {config.vocab_size, config.hidden_size}});
  return out;
}

std::vector<ExpectedTensor> AllTensors(const ModelConfig& config) {
  std::vector<ExpectedTensor> out = EmbeddingTensors(config);
  const auto append = [&out](const std::vector<ExpectedTensor>& more) {
    out.insert(out.end(), more.begin(), more.end());
  };
  for (int64_t layer = 0; layer < config.layers; ++layer) append(BlockTensors(config, layer));
  append(HeadTensors(config));
  return out;
}

int64_t ParameterCount(const ModelConfig& config) {
  int64_t count = 0;
  for (const ExpectedTensor& tensor : AllTensors(config)) {
    int64_t elements = 1;
    for (int64_t extent : tensor.shape) elements *= extent;
    count += elements;
  }
  return count;
}

}  // namespace anneal
