#include "common/format/model_config.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"

namespace anneal {
namespace {

// What sets one family apart from another. The rest of config.json means the same everywhere.
struct Family {
  absl::string_view model_type;
  absl::string_view architecture;
};
constexpr Family kFamilies[] = {{"llama", "LlamaForCausalLM"}};

// Far above any model that exists, and small enough that products of three fit 64 bits.
constexpr int64_t kMaxExtent = 1 << 20;
constexpr int64_t kMaxVocabulary = 1 << 24;
constexpr int64_t kMaxLayers = 4096;

absl::Status Unsupported(absl::string_view field, const Json& value, absl::string_view supported) {
  return absl::InvalidArgumentError(
      absl::StrCat(field, " = ", DumpJson(value), " is not supported; supported: ", supported));
}

// The field's value, or null if it is absent.
const Json& FieldOf(const Json& json, const std::string& field) {
  static const Json kNull = nullptr;
  const auto it = json.find(field);
  return it == json.end() ? kNull : *it;
}

absl::StatusOr<int64_t> ReadCount(const Json& json, const std::string& field, int64_t max,
                                  std::optional<int64_t> fallback = std::nullopt) {
  const Json& value = FieldOf(json, field);
  if (value.is_null() && fallback) return *fallback;
  if (value.is_null()) return absl::InvalidArgumentError(absl::StrCat(field, " is missing"));
  if (!value.is_number_integer() || value.get<double>() < 1 ||
      value.get<double>() > static_cast<double>(max)) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, " = ", DumpJson(value), " is not a whole number from 1 to ", max));
  }
  return value.get<int64_t>();
}

absl::StatusOr<double> ReadPositive(const Json& json, const std::string& field, double fallback) {
  const Json& value = FieldOf(json, field);
  if (value.is_null()) return fallback;
  if (!value.is_number() || !(value.get<double>() > 0) || !std::isfinite(value.get<double>())) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, " = ", DumpJson(value), " is not a number above 0"));
  }
  return value.get<double>();
}

absl::StatusOr<bool> ReadBool(const Json& json, const std::string& field, bool fallback) {
  const Json& value = FieldOf(json, field);
  if (value.is_null()) return fallback;
  if (!value.is_boolean()) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, " = ", DumpJson(value), " is not true or false"));
  }
  return value.get<bool>();
}

absl::Status ReadFamily(const Json& json, ModelConfig& config) {
  const Json& type = FieldOf(json, "model_type");
  std::vector<absl::string_view> known;
  for (const Family& family : kFamilies) {
    known.push_back(family.model_type);
    if (!type.is_string() || type.get_ref<const std::string&>() != family.model_type) continue;
    config.family = std::string(family.model_type);
    config.architecture = std::string(family.architecture);
    const Json& architectures = FieldOf(json, "architectures");
    if (!architectures.is_null() && architectures != Json::array({config.architecture})) {
      return Unsupported("architectures", architectures,
                         absl::StrCat("[\"", family.architecture, "\"]"));
    }
    return absl::OkStatus();
  }
  return Unsupported("model_type", type, absl::StrJoin(known, ", "));
}

// Fields that change the arithmetic and may only have the value that leaves it as it is here.
absl::Status RefuseVariants(const Json& json) {
  for (const char* field : {"attention_bias", "mlp_bias"}) {
    ANNEAL_ASSIGN_OR_RETURN(const bool biased, ReadBool(json, field, false));
    if (biased) return Unsupported(field, true, "false");
  }
  if (const Json& act = FieldOf(json, "hidden_act"); !act.is_null() && act != "silu") {
    return Unsupported("hidden_act", act, "\"silu\"");
  }
  for (const char* field : {"quantization_config", "sliding_window"}) {
    if (const Json& value = FieldOf(json, field); !value.is_null())
      return Unsupported(field, value, "null");
  }
  if (const Json& factor = FieldOf(json, "partial_rotary_factor");
      !factor.is_null() && factor != 1.0) {
    return Unsupported("partial_rotary_factor", factor, "1.0");
  }
  if (const Json& rate = FieldOf(json, "attention_dropout"); !rate.is_null() && rate != 0.0) {
    return Unsupported("attention_dropout", rate, "0.0");
  }
  // Splits products over the feature dimension and rounds otherwise, but means the same.
  ANNEAL_ASSIGN_OR_RETURN(const int64_t parallel, ReadCount(json, "pretraining_tp", kMaxExtent, 1));
  if (parallel != 1) return Unsupported("pretraining_tp", parallel, "1");
  return absl::OkStatus();
}

// transformers 4: rope_theta and rope_scaling {rope_type or type, ...}; transformers 5:
// rope_parameters {rope_type, rope_theta}.
absl::Status ReadRope(const Json& json, ModelConfig& config) {
  ANNEAL_ASSIGN_OR_RETURN(config.rope_theta, ReadPositive(json, "rope_theta", 10000.0));
  for (const char* field : {"rope_scaling", "rope_parameters"}) {
    const Json& rope = FieldOf(json, field);
    if (rope.is_null()) continue;
    if (!rope.is_object()) return Unsupported(field, rope, "null or an object");
    for (const char* type_field : {"rope_type", "type"}) {
      const Json& type = FieldOf(rope, type_field);
      if (!type.is_null() && type != "default") {
        return Unsupported(absl::StrCat(field, ".", type_field), type, "\"default\"");
      }
    }
    absl::StatusOr<double> theta = ReadPositive(rope, "rope_theta", config.rope_theta);
    if (!theta.ok()) return Annotate(theta.status(), field);
    config.rope_theta = *theta;
    if (const Json& factor = FieldOf(rope, "partial_rotary_factor");
        !factor.is_null() && factor != 1.0) {
      return Unsupported(absl::StrCat(field, ".partial_rotary_factor"), factor, "1.0");
    }
  }
  return absl::OkStatus();
}

absl::Status ReadDType(const Json& json, ModelConfig& config) {
  for (const char* field : {"torch_dtype", "dtype"}) {
    const Json& value = FieldOf(json, field);
    if (value.is_null()) continue;
    if (value != "float32" && value != "bfloat16" && value != "float16") {
      return Unsupported(field, value, "\"float32\", \"bfloat16\", \"float16\"");
    }
    config.dtype = value.get<std::string>();
  }
  return absl::OkStatus();
}

absl::Status ReadEosTokens(const Json& json, ModelConfig& config) {
  const Json& eos = FieldOf(json, "eos_token_id");
  if (eos.is_null()) return absl::OkStatus();
  for (const Json& id : eos.is_array() ? eos : Json::array({eos})) {
    if (!id.is_number_integer() || id.get<double>() < 0 ||
        id.get<double>() >= static_cast<double>(config.vocab_size)) {
      return absl::InvalidArgumentError(
          absl::StrCat("eos_token_id = ", DumpJson(eos),
                       " is not a token id below vocab_size = ", config.vocab_size));
    }
    config.eos_token_ids.push_back(id.get<int64_t>());
  }
  return absl::OkStatus();
}

absl::Status ReadExtents(const Json& json, ModelConfig& config) {
  ANNEAL_ASSIGN_OR_RETURN(config.hidden_size, ReadCount(json, "hidden_size", kMaxExtent));
  ANNEAL_ASSIGN_OR_RETURN(config.intermediate_size,
                          ReadCount(json, "intermediate_size", kMaxExtent));
  ANNEAL_ASSIGN_OR_RETURN(config.layers, ReadCount(json, "num_hidden_layers", kMaxLayers));
  ANNEAL_ASSIGN_OR_RETURN(config.heads, ReadCount(json, "num_attention_heads", kMaxExtent));
  ANNEAL_ASSIGN_OR_RETURN(config.kv_heads,
                          ReadCount(json, "num_key_value_heads", kMaxExtent, config.heads));
  if (config.heads % config.kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_attention_heads = ", config.heads,
                     " is not a multiple of num_key_value_heads = ", config.kv_heads));
  }
  if (FieldOf(json, "head_dim").is_null() && config.hidden_size % config.heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("hidden_size = ", config.hidden_size,
                                                   " is not a multiple of num_attention_heads = ",
                                                   config.heads, " and head_dim is not given"));
  }
  ANNEAL_ASSIGN_OR_RETURN(
      config.head_dim, ReadCount(json, "head_dim", kMaxExtent, config.hidden_size / config.heads));
  if (config.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("head_dim = ", config.head_dim, " is odd; rotary embeddings turn pairs"));
  }
  ANNEAL_ASSIGN_OR_RETURN(config.vocab_size, ReadCount(json, "vocab_size", kMaxVocabulary));
  ANNEAL_ASSIGN_OR_RETURN(
      config.max_positions,
      ReadCount(json, "max_position_embeddings", std::numeric_limits<int32_t>::max(), 2048));
  return absl::OkStatus();
}

std::string BlockPrefix(int64_t layer) { return absl::StrCat("model.layers.", layer, "."); }

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(const Json& json) {
  if (!json.is_object()) return absl::InvalidArgumentError("not a JSON object");
  ModelConfig config;
  ANNEAL_RETURN_IF_ERROR(ReadFamily(json, config));
  ANNEAL_RETURN_IF_ERROR(RefuseVariants(json));
  ANNEAL_RETURN_IF_ERROR(ReadExtents(json, config));
  ANNEAL_RETURN_IF_ERROR(ReadRope(json, config));
  ANNEAL_RETURN_IF_ERROR(ReadDType(json, config));
  ANNEAL_RETURN_IF_ERROR(ReadEosTokens(json, config));
  ANNEAL_ASSIGN_OR_RETURN(config.rms_norm_epsilon, ReadPositive(json, "rms_norm_eps", 1e-6));
  ANNEAL_ASSIGN_OR_RETURN(config.tie_word_embeddings, ReadBool(json, "tie_word_embeddings", false));
  return config;
}

absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& model_dir) {
  const std::string path = absl::StrCat(model_dir, "/config.json");
  ANNEAL_ASSIGN_OR_RETURN(const Json json, ReadJsonFile(path, {.max_bytes = 1 << 20}));
  absl::StatusOr<ModelConfig> config = ParseModelConfig(json);
  if (!config.ok()) return Annotate(config.status(), path);
  return config;
}

std::vector<ExpectedTensor> EmbeddingTensors(const ModelConfig& config) {
  return {{"model.embed_tokens.weight", {config.vocab_size, config.hidden_size}}};
}

std::vector<LinearModule> BlockLinears(const ModelConfig& config, int64_t layer) {
  const std::string prefix = BlockPrefix(layer);
  const int64_t d = config.hidden_size, f = config.intermediate_size;
  const int64_t q = config.heads * config.head_dim, kv = config.kv_heads * config.head_dim;
  return {{prefix + "self_attn.q_proj", q, d},  {prefix + "self_attn.k_proj", kv, d},
          {prefix + "self_attn.v_proj", kv, d}, {prefix + "self_attn.o_proj", d, q},
          {prefix + "mlp.gate_proj", f, d},     {prefix + "mlp.up_proj", f, d},
          {prefix + "mlp.down_proj", d, f}};
}

std::vector<ExpectedTensor> BlockTensors(const ModelConfig& config, int64_t layer) {
  std::vector<ExpectedTensor> out = {
      {BlockPrefix(layer) + "input_layernorm.weight", {config.hidden_size}},
      {BlockPrefix(layer) + "post_attention_layernorm.weight", {config.hidden_size}}};
  for (const LinearModule& linear : BlockLinears(config, layer)) {
    out.push_back({linear.name + ".weight", {linear.out_features, linear.in_features}});
  }
  return out;
}

std::vector<ExpectedTensor> HeadTensors(const ModelConfig& config) {
  std::vector<ExpectedTensor> out = {{"model.norm.weight", {config.hidden_size}}};
  if (!config.tie_word_embeddings)
    out.push_back({"lm_head.weight", {config.vocab_size, config.hidden_size}});
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
