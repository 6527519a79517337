#include "common/format/model_config.h"

#include <cmath>
#include <limits>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"

namespace anneal {
namespace {

// Which layers attend to a window only.
enum class Windows {
  kNone,
  kEveryLayer,  // sliding_window
  kByLayer,     // use_sliding_window, sliding_window, max_window_layers, layer_types
};

// What sets one family apart from another, after transformers' configuration_*.py and
// modeling_*.py. The rest of config.json means the same everywhere.
struct Family {
  absl::string_view model_type;
  absl::string_view architecture;
  bool query_key_value_bias = false;  // always
  bool attention_bias_key = false;    // attention_bias: of q, k, v and o
  bool mlp_bias_key = false;
  bool query_key_norm = false;
  Windows windows = Windows::kNone;
  // Where the key is absent.
  int64_t key_value_heads = 0;  // 0 = as many as heads
  int64_t head_dim = 0;         // 0 = hidden_size / heads
  int64_t max_positions = 0;
};
constexpr Family kFamilies[] = {
    {.model_type = "llama",
     .architecture = "LlamaForCausalLM",
     .attention_bias_key = true,
     .mlp_bias_key = true,
     .max_positions = 2048},
    {.model_type = "mistral",
     .architecture = "MistralForCausalLM",
     .windows = Windows::kEveryLayer,
     .key_value_heads = 8,
     .max_positions = 4096 * 32},
    {.model_type = "qwen2",
     .architecture = "Qwen2ForCausalLM",
     .query_key_value_bias = true,
     .windows = Windows::kByLayer,
     .key_value_heads = 32,
     .max_positions = 32768},
    {.model_type = "qwen3",
     .architecture = "Qwen3ForCausalLM",
     .attention_bias_key = true,
     .query_key_norm = true,
     .windows = Windows::kByLayer,
     .key_value_heads = 32,
     .head_dim = 128,
     .max_positions = 32768},
};
constexpr int64_t kDefaultWindow = 4096;
constexpr int64_t kDefaultMaxWindowLayers = 28;

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
                                  std::optional<int64_t> fallback = std::nullopt, int64_t min = 1) {
  const Json& value = FieldOf(json, field);
  if (value.is_null() && fallback) return *fallback;
  if (value.is_null()) return absl::InvalidArgumentError(absl::StrCat(field, " is missing"));
  if (!value.is_number_integer() || value.get<double>() < static_cast<double>(min) ||
      value.get<double>() > static_cast<double>(max)) {
    return absl::InvalidArgumentError(absl::StrCat(
        field, " = ", DumpJson(value), " is not a whole number from ", min, " to ", max));
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

absl::StatusOr<const Family*> ReadFamily(const Json& json) {
  const Json& type = FieldOf(json, "model_type");
  std::vector<absl::string_view> known;
  for (const Family& family : kFamilies) {
    known.push_back(family.model_type);
    if (!type.is_string() || type.get_ref<const std::string&>() != family.model_type) continue;
    const Json& architectures = FieldOf(json, "architectures");
    if (!architectures.is_null() &&
        architectures != Json::array({std::string(family.architecture)})) {
      return Unsupported("architectures", architectures,
                         absl::StrCat("[\"", family.architecture, "\"]"));
    }
    return &family;
  }
  return Unsupported("model_type", type, absl::StrJoin(known, ", "));
}

// Fields that change the arithmetic and may only have the value that leaves it as it is here.
absl::Status RefuseVariants(const Json& json) {
  if (const Json& act = FieldOf(json, "hidden_act"); !act.is_null() && act != "silu") {
    return Unsupported("hidden_act", act, "\"silu\"");
  }
  if (const Json& value = FieldOf(json, "quantization_config"); !value.is_null())
    return Unsupported("quantization_config", value, "null");
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

absl::Status ReadBiases(const Json& json, const Family& family, ModelConfig& config) {
  const auto read = [&](const char* field, bool has_key) -> absl::StatusOr<bool> {
    ANNEAL_ASSIGN_OR_RETURN(const bool biased, ReadBool(json, field, false));
    if (biased && !has_key)
      return Unsupported(field, true, absl::StrCat("false for ", family.model_type));
    return biased;
  };
  ANNEAL_ASSIGN_OR_RETURN(config.attention_output_bias,
                          read("attention_bias", family.attention_bias_key));
  config.query_key_value_bias = config.attention_output_bias || family.query_key_value_bias;
  ANNEAL_ASSIGN_OR_RETURN(config.mlp_bias, read("mlp_bias", family.mlp_bias_key));
  return absl::OkStatus();
}

// layer_types, or what transformers makes of its absence: the layers from max_window_layers on
// slide.
absl::StatusOr<std::vector<bool>> ReadSlidingLayers(const Json& json, int64_t layers,
                                                    bool has_window) {
  ANNEAL_ASSIGN_OR_RETURN(
      const int64_t full_layers,
      ReadCount(json, "max_window_layers", kMaxLayers, kDefaultMaxWindowLayers, 0));
  std::vector<bool> sliding(layers);
  for (int64_t layer = full_layers; layer < layers; ++layer) sliding[layer] = has_window;
  const Json& types = FieldOf(json, "layer_types");
  if (types.is_null()) return sliding;
  if (!types.is_array() || static_cast<int64_t>(types.size()) != layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer_types is not a list of num_hidden_layers = ", layers, " names"));
  }
  for (int64_t layer = 0; layer < layers; ++layer) {
    const Json& type = types[static_cast<size_t>(layer)];
    if (type != "full_attention" && type != "sliding_attention") {
      return Unsupported(absl::StrCat("layer_types[", layer, "]"), type,
                         "\"full_attention\", \"sliding_attention\"");
    }
    sliding[layer] = type == "sliding_attention";
    if (sliding[layer] && !has_window) {
      return absl::InvalidArgumentError(
          absl::StrCat("layer_types[", layer,
                       "] is \"sliding_attention\", but use_sliding_window and sliding_window give "
                       "no window"));
    }
  }
  return sliding;
}

absl::Status ReadWindows(const Json& json, const Family& family, ModelConfig& config) {
  config.attention_windows.assign(config.layers, 0);
  const auto refuse = [&](const char* field) -> absl::Status {
    const Json& value = FieldOf(json, field);
    if (value.is_null()) return absl::OkStatus();
    return Unsupported(field, value, absl::StrCat("null for ", family.model_type));
  };
  if (family.windows != Windows::kByLayer) ANNEAL_RETURN_IF_ERROR(refuse("layer_types"));
  if (family.windows == Windows::kNone) return refuse("sliding_window");

  // Null says that there is none, absence that it is the usual one.
  const bool no_window = json.contains("sliding_window") && json["sliding_window"].is_null();
  ANNEAL_ASSIGN_OR_RETURN(
      const int64_t width,
      ReadCount(json, "sliding_window", std::numeric_limits<int32_t>::max(), kDefaultWindow));
  if (family.windows == Windows::kEveryLayer) {
    config.attention_windows.assign(config.layers, no_window ? 0 : width);
    return absl::OkStatus();
  }
  ANNEAL_ASSIGN_OR_RETURN(const bool enabled, ReadBool(json, "use_sliding_window", false));
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<bool> sliding,
                          ReadSlidingLayers(json, config.layers, enabled && !no_window));
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    if (sliding[layer]) config.attention_windows[layer] = width;
  }
  return absl::OkStatus();
}

absl::StatusOr<Llama3Rope> ReadLlama3Rope(const Json& json, const Json& rope,
                                          const ModelConfig& config) {
  Llama3Rope out;
  for (const auto& [field, value] :
       {std::pair("factor", &out.factor), std::pair("low_freq_factor", &out.low_frequency_factor),
        std::pair("high_freq_factor", &out.high_frequency_factor)}) {
    if (FieldOf(rope, field).is_null())
      return absl::InvalidArgumentError(absl::StrCat(field, " is missing"));
    ANNEAL_ASSIGN_OR_RETURN(*value, ReadPositive(rope, field, 0));
  }
  if (out.high_frequency_factor <= out.low_frequency_factor) {
    return absl::InvalidArgumentError(
        absl::StrCat("high_freq_factor = ", out.high_frequency_factor,
                     " is not above low_freq_factor = ", out.low_frequency_factor));
  }
  // transformers prefers the key beside the rope parameters to the one among them.
  constexpr char kOriginal[] = "original_max_position_embeddings";
  ANNEAL_ASSIGN_OR_RETURN(out.original_max_positions,
                          ReadCount(FieldOf(json, kOriginal).is_null() ? rope : json, kOriginal,
                                    std::numeric_limits<int32_t>::max(), config.max_positions));
  return out;
}

absl::Status ReadRopeParameters(const Json& json, const Json& rope, ModelConfig& config) {
  ANNEAL_ASSIGN_OR_RETURN(config.rope_theta, ReadPositive(rope, "rope_theta", config.rope_theta));
  if (const Json& factor = FieldOf(rope, "partial_rotary_factor");
      !factor.is_null() && factor != 1.0) {
    return Unsupported("partial_rotary_factor", factor, "1.0");
  }
  const char* type_field = FieldOf(rope, "rope_type").is_null() ? "type" : "rope_type";
  const Json& type = FieldOf(rope, type_field);
  if (type == "llama3") {
    ANNEAL_ASSIGN_OR_RETURN(config.llama3_rope, ReadLlama3Rope(json, rope, config));
  } else if (!type.is_null() && type != "default") {
    return Unsupported(type_field, type, "\"default\", \"llama3\"");
  }
  constexpr absl::string_view kKnown[] = {"rope_type", "type", "rope_theta",
                                          "partial_rotary_factor"};
  constexpr absl::string_view kLlama3[] = {"factor", "low_freq_factor", "high_freq_factor",
                                           "original_max_position_embeddings"};
  for (const auto& [key, value] : rope.items()) {
    const bool known = absl::c_linear_search(kKnown, key) ||
                       (config.llama3_rope && absl::c_linear_search(kLlama3, key));
    if (!known && !value.is_null()) return Unsupported(key, value, "null");
  }
  return absl::OkStatus();
}

// transformers 4: rope_theta and rope_scaling {rope_type or type, ...}; transformers 5:
// rope_parameters {rope_type, rope_theta, ...}. Of both, rope_scaling decides.
absl::Status ReadRope(const Json& json, ModelConfig& config) {
  ANNEAL_ASSIGN_OR_RETURN(config.rope_theta, ReadPositive(json, "rope_theta", 10000.0));
  for (const char* field : {"rope_scaling", "rope_parameters"}) {
    const Json& rope = FieldOf(json, field);
    if (rope.is_null() || rope.empty()) continue;
    if (!rope.is_object()) return Unsupported(field, rope, "null or an object");
    return Annotate(ReadRopeParameters(json, rope, config), field);
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

absl::Status ReadPaddingToken(const Json& json, ModelConfig& config) {
  const Json& id = FieldOf(json, "pad_token_id");
  if (id.is_null()) return absl::OkStatus();
  const auto vocabulary = static_cast<double>(config.vocab_size);
  if (!id.is_number_integer() || id.get<double>() < -vocabulary || id.get<double>() >= vocabulary) {
    return absl::InvalidArgumentError(
        absl::StrCat("pad_token_id = ", DumpJson(id),
                     " is not a token id below vocab_size = ", config.vocab_size));
  }
  // As torch reads it, -1 is the last row.
  const int64_t value = id.get<int64_t>();
  config.padding_token_id = value < 0 ? value + config.vocab_size : value;
  return absl::OkStatus();
}

absl::Status ReadExtents(const Json& json, const Family& family, ModelConfig& config) {
  ANNEAL_ASSIGN_OR_RETURN(config.hidden_size, ReadCount(json, "hidden_size", kMaxExtent));
  ANNEAL_ASSIGN_OR_RETURN(config.intermediate_size,
                          ReadCount(json, "intermediate_size", kMaxExtent));
  ANNEAL_ASSIGN_OR_RETURN(config.layers, ReadCount(json, "num_hidden_layers", kMaxLayers));
  ANNEAL_ASSIGN_OR_RETURN(config.heads, ReadCount(json, "num_attention_heads", kMaxExtent));
  const bool usual_kv_heads = !json.contains("num_key_value_heads") && family.key_value_heads > 0;
  ANNEAL_ASSIGN_OR_RETURN(config.kv_heads,
                          ReadCount(json, "num_key_value_heads", kMaxExtent,
                                    usual_kv_heads ? family.key_value_heads : config.heads));
  if (config.heads % config.kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_attention_heads = ", config.heads,
                     " is not a multiple of num_key_value_heads = ", config.kv_heads));
  }
  const bool divided_width = FieldOf(json, "head_dim").is_null() && family.head_dim == 0;
  if (divided_width && config.hidden_size % config.heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("hidden_size = ", config.hidden_size,
                                                   " is not a multiple of num_attention_heads = ",
                                                   config.heads, " and head_dim is not given"));
  }
  ANNEAL_ASSIGN_OR_RETURN(
      config.head_dim,
      ReadCount(json, "head_dim", kMaxExtent,
                divided_width ? config.hidden_size / config.heads : family.head_dim));
  if (config.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("head_dim = ", config.head_dim, " is odd; rotary embeddings turn pairs"));
  }
  ANNEAL_ASSIGN_OR_RETURN(config.vocab_size, ReadCount(json, "vocab_size", kMaxVocabulary));
  ANNEAL_ASSIGN_OR_RETURN(config.max_positions,
                          ReadCount(json, "max_position_embeddings",
                                    std::numeric_limits<int32_t>::max(), family.max_positions));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(const Json& json) {
  if (!json.is_object()) return absl::InvalidArgumentError("not a JSON object");
  ModelConfig config;
  ANNEAL_ASSIGN_OR_RETURN(const Family* family, ReadFamily(json));
  config.family = std::string(family->model_type);
  config.architecture = std::string(family->architecture);
  config.query_key_norm = family->query_key_norm;
  ANNEAL_RETURN_IF_ERROR(RefuseVariants(json));
  ANNEAL_RETURN_IF_ERROR(ReadExtents(json, *family, config));
  ANNEAL_RETURN_IF_ERROR(ReadBiases(json, *family, config));
  ANNEAL_RETURN_IF_ERROR(ReadWindows(json, *family, config));
  ANNEAL_RETURN_IF_ERROR(ReadRope(json, config));
  ANNEAL_RETURN_IF_ERROR(ReadDType(json, config));
  ANNEAL_RETURN_IF_ERROR(ReadEosTokens(json, config));
  ANNEAL_RETURN_IF_ERROR(ReadPaddingToken(json, config));
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

}  // namespace anneal
