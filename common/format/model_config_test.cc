#include "common/format/model_config.h"

#include <set>

#include "common/base/status_matchers.h"
#include "common/format/model_tensors.h"

namespace anneal {
namespace {

using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;

Json Llama() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_size", 64},
          {"intermediate_size", 160},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"vocab_size", 300},
          {"max_position_embeddings", 512},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 5000.0},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", true},
          {"torch_dtype", "bfloat16"},
          {"eos_token_id", 2}};
}

void ExpectRefused(const std::string& field, const Json& value, const std::string& why) {
  Json json = Llama();
  json[field] = value;
  EXPECT_THAT(ParseModelConfig(json), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(why)))
      << field;
}

TEST(ModelConfigTest, ReadsTheOldSpelling) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(const ModelConfig config, ParseModelConfig(Llama()));
  EXPECT_EQ(config.family, "llama");
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.kv_heads, 2);
  EXPECT_EQ(config.rope_theta, 5000.0);
  EXPECT_EQ(config.rms_norm_epsilon, 1e-5);
  EXPECT_EQ(config.dtype, "bfloat16");
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_THAT(config.eos_token_ids, ::testing::ElementsAre(2));
}

TEST(ModelConfigTest, ReadsTheNewSpelling) {
  Json json = Llama();
  json.erase("rope_theta");
  json.erase("torch_dtype");
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 7000}};
  json["dtype"] = "float32";
  json["head_dim"] = 32;
  json["eos_token_id"] = {2, 7};
  ANNEAL_ASSERT_OK_AND_ASSIGN(const ModelConfig config, ParseModelConfig(json));
  EXPECT_EQ(config.rope_theta, 7000);
  EXPECT_EQ(config.dtype, "float32");
  EXPECT_EQ(config.head_dim, 32);
  EXPECT_THAT(config.eos_token_ids, ::testing::ElementsAre(2, 7));
}

TEST(ModelConfigTest, RefusesWhatItWouldComputeOtherwise) {
  ExpectRefused("model_type", "gpt2",
                "model_type = \"gpt2\" is not supported; supported: llama, mistral, qwen2, qwen3");
  ExpectRefused("model_type", nullptr, "model_type = null");
  ExpectRefused("architectures", {"LlamaForSequenceClassification"},
                "LlamaForSequenceClassification");
  ExpectRefused("mlp_bias", "yes", "is not true or false");
  ExpectRefused("hidden_act", "gelu", "hidden_act = \"gelu\"");
  ExpectRefused(
      "rope_scaling", {{"type", "linear"}, {"factor", 2}},
      "rope_scaling: type = \"linear\" is not supported; supported: \"default\", \"llama3\"");
  ExpectRefused("rope_scaling", "yarn", "rope_scaling = \"yarn\"");
  ExpectRefused("rope_parameters", {{"full_attention", {{"rope_type", "default"}}}},
                "rope_parameters: full_attention = ");
  ExpectRefused("rope_parameters", {{"rope_type", "llama3"}}, "rope_parameters: factor is missing");
  ExpectRefused("sliding_window", 512,
                "sliding_window = 512 is not supported; supported: null for llama");
  ExpectRefused("layer_types", {"full_attention", "full_attention"}, "layer_types");
  ExpectRefused("rope_parameters", {{"rope_theta", -1}}, "rope_parameters: rope_theta = -1");
  ExpectRefused("partial_rotary_factor", 0.5, "partial_rotary_factor = 0.5");
  ExpectRefused("quantization_config", {{"bits", 4}}, "quantization_config");
  ExpectRefused("attention_dropout", 0.1, "attention_dropout = 0.1");
  ExpectRefused("pretraining_tp", 2, "pretraining_tp = 2");
  ExpectRefused("torch_dtype", "int8", "torch_dtype = \"int8\"");
}

TEST(ModelConfigTest, RefusesImpossibleExtents) {
  ExpectRefused("hidden_size", nullptr, "hidden_size is missing");
  ExpectRefused("hidden_size", 0, "hidden_size = 0");
  ExpectRefused("hidden_size", -64, "hidden_size = -64");
  ExpectRefused("hidden_size", 64.5, "hidden_size = 64.5");
  ExpectRefused("hidden_size", "64", "hidden_size = \"64\"");
  ExpectRefused("hidden_size", uint64_t{1} << 63, "hidden_size = 9223372036854775808");
  ExpectRefused("hidden_size", 66, "not a multiple of num_attention_heads");
  ExpectRefused("num_key_value_heads", 3, "not a multiple of num_key_value_heads = 3");
  ExpectRefused("head_dim", 15, "head_dim = 15 is odd");
  ExpectRefused("num_hidden_layers", 1000000, "num_hidden_layers = 1000000");
  ExpectRefused("rms_norm_eps", 0, "rms_norm_eps = 0");
  ExpectRefused("rope_theta", "big", "rope_theta = \"big\"");
  ExpectRefused("eos_token_id", 300, "below vocab_size = 300");
  ExpectRefused("eos_token_id", {1, "x"}, "eos_token_id");
  ExpectRefused("pad_token_id", 300, "pad_token_id = 300");
  ExpectRefused("pad_token_id", -301, "pad_token_id = -301");
  EXPECT_THAT(ParseModelConfig(Json::array()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a JSON object")));
}

Json OfFamily(const std::string& family, const std::string& architecture, Json more) {
  Json json = Llama();
  json["model_type"] = family;
  json["architectures"] = {architecture};
  if (!more.is_null()) json.update(more);  // {} is null
  return json;
}

TEST(ModelConfigTest, Llama3RopeInBothSpellings) {
  const Json rope = {{"rope_type", "llama3"},
                     {"factor", 8.0},
                     {"low_freq_factor", 1.0},
                     {"high_freq_factor", 4.0},
                     {"original_max_position_embeddings", 128}};
  Json old_json = Llama(), new_json = Llama();
  old_json["rope_scaling"] = rope;
  new_json.erase("rope_theta");
  new_json["rope_parameters"] = rope;
  new_json["rope_parameters"]["rope_theta"] = 5000.0;
  for (const Json& json : {old_json, new_json}) {
    ANNEAL_ASSERT_OK_AND_ASSIGN(const ModelConfig config, ParseModelConfig(json));
    EXPECT_EQ(config.rope_theta, 5000.0);
    ASSERT_TRUE(config.llama3_rope.has_value());
    EXPECT_EQ(config.llama3_rope->factor, 8.0);
    EXPECT_EQ(config.llama3_rope->low_frequency_factor, 1.0);
    EXPECT_EQ(config.llama3_rope->high_frequency_factor, 4.0);
    EXPECT_EQ(config.llama3_rope->original_max_positions, 128);
  }
  // Beside the parameters it wins; nowhere, the model's own positions count.
  old_json["original_max_position_embeddings"] = 64;
  EXPECT_EQ(ParseModelConfig(old_json)->llama3_rope->original_max_positions, 64);
  old_json.erase("original_max_position_embeddings");
  old_json["rope_scaling"].erase("original_max_position_embeddings");
  EXPECT_EQ(ParseModelConfig(old_json)->llama3_rope->original_max_positions, 512);
  old_json["rope_scaling"]["high_freq_factor"] = 1.0;
  EXPECT_THAT(ParseModelConfig(old_json),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("high_freq_factor = 1")));
}

TEST(ModelConfigTest, BiasesAreWhereTheFamilyHasThem) {
  Json llama = Llama();
  llama["attention_bias"] = llama["mlp_bias"] = true;
  ANNEAL_ASSERT_OK_AND_ASSIGN(const ModelConfig all, ParseModelConfig(llama));
  for (const LinearModule& linear : BlockLinears(all, 0)) EXPECT_TRUE(linear.has_bias);
  ANNEAL_ASSERT_OK_AND_ASSIGN(const ModelConfig qwen2,
                              ParseModelConfig(OfFamily("qwen2", "Qwen2ForCausalLM", {})));
  std::vector<bool> biased;
  for (const LinearModule& linear : BlockLinears(qwen2, 0)) biased.push_back(linear.has_bias);
  EXPECT_THAT(biased, ::testing::ElementsAre(true, true, true, false, false, false, false));
  EXPECT_EQ(BlockTensors(qwen2, 1)[3].name, "model.layers.1.self_attn.q_proj.bias");
  EXPECT_THAT(
      ParseModelConfig(OfFamily("mistral", "MistralForCausalLM", {{"attention_bias", true}})),
      StatusIs(absl::StatusCode::kInvalidArgument,
               HasSubstr("attention_bias = true is not supported; supported: false for mistral")));
}

TEST(ModelConfigTest, WindowsAreWhereTheFamilyPutsThem) {
  using ::testing::ElementsAre;
  const auto mistral = [](Json more) {
    return ParseModelConfig(OfFamily("mistral", "MistralForCausalLM", std::move(more)));
  };
  EXPECT_THAT(mistral({})->attention_windows, ElementsAre(4096, 4096));  // as transformers defaults
  EXPECT_THAT(mistral({{"sliding_window", 16}})->attention_windows, ElementsAre(16, 16));
  EXPECT_THAT(mistral({{"sliding_window", nullptr}})->attention_windows, ElementsAre(0, 0));

  const auto qwen3 = [](Json more) {
    return ParseModelConfig(OfFamily("qwen3", "Qwen3ForCausalLM", std::move(more)));
  };
  EXPECT_THAT(qwen3({{"sliding_window", 16}})->attention_windows, ElementsAre(0, 0));
  Json sliding = {{"use_sliding_window", true}, {"sliding_window", 16}};
  EXPECT_THAT(qwen3(sliding)->attention_windows, ElementsAre(0, 0));  // from layer 28 on
  sliding["max_window_layers"] = 1;
  EXPECT_THAT(qwen3(sliding)->attention_windows, ElementsAre(0, 16));
  sliding["layer_types"] = {"sliding_attention", "full_attention"};
  EXPECT_THAT(qwen3(sliding)->attention_windows, ElementsAre(16, 0));
  sliding["use_sliding_window"] = false;
  EXPECT_THAT(qwen3(sliding),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("layer_types[0]")));
  sliding["layer_types"] = {"full_attention"};
  EXPECT_THAT(qwen3(sliding), StatusIs(absl::StatusCode::kInvalidArgument,
                                       HasSubstr("num_hidden_layers = 2 names")));
  sliding["layer_types"] = {"chunked_attention", "full_attention"};
  EXPECT_THAT(qwen3(sliding), StatusIs(absl::StatusCode::kInvalidArgument,
                                       HasSubstr("layer_types[0] = \"chunked_attention\"")));
}

TEST(ModelConfigTest, AbsentKeysMeanWhatTheFamilyMeans) {
  Json qwen3 = OfFamily("qwen3", "Qwen3ForCausalLM", {});
  for (const char* key : {"num_key_value_heads", "max_position_embeddings", "rms_norm_eps"})
    qwen3.erase(key);
  qwen3["num_attention_heads"] = 32;
  ANNEAL_ASSERT_OK_AND_ASSIGN(const ModelConfig config, ParseModelConfig(qwen3));
  EXPECT_TRUE(config.query_key_norm);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_EQ(config.kv_heads, 32);
  EXPECT_EQ(config.max_positions, 32768);
  EXPECT_EQ(config.rms_norm_epsilon, 1e-6);
  EXPECT_EQ(BlockNorms(config, 1)[2].name, "model.layers.1.self_attn.q_norm");
  qwen3["num_key_value_heads"] = nullptr;  // said to be as many as heads
  qwen3["num_attention_heads"] = 4;
  EXPECT_EQ(ParseModelConfig(qwen3)->kv_heads, 4);
  EXPECT_EQ(ParseModelConfig(qwen3)->padding_token_id, std::nullopt);
  qwen3["pad_token_id"] = -1;
  EXPECT_EQ(ParseModelConfig(qwen3)->padding_token_id, 299);
}

TEST(ModelConfigTest, ListsTheTensors) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(ModelConfig config, ParseModelConfig(Llama()));
  const std::vector<LinearModule> linears = BlockLinears(config, 1);
  ASSERT_EQ(linears.size(), 7u);
  EXPECT_EQ(linears[1].name, "model.layers.1.self_attn.k_proj");
  EXPECT_EQ(linears[1].out_features, 32);
  EXPECT_EQ(linears[1].in_features, 64);
  std::set<std::string> names;
  for (const ExpectedTensor& tensor : AllTensors(config)) names.insert(tensor.name);
  EXPECT_EQ(names.size(), 1u + 2 * 9 + 1);
  EXPECT_EQ(names.count("lm_head.weight"), 0u);
  const int64_t block = 2 * 64 + 64 * (64 + 32 + 32 + 64) + 3 * 64 * 160;
  EXPECT_EQ(ParameterCount(config), 300 * 64 + 2 * block + 64);
  config.tie_word_embeddings = false;
  EXPECT_EQ(ParameterCount(config), 2 * 300 * 64 + 2 * block + 64);
}

}  // namespace
}  // namespace anneal
