#include "common/format/model_config.h"

#include <set>

#include "common/base/status_matchers.h"

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
  ExpectRefused("model_type", "gpt2", "model_type = \"gpt2\" is not supported; supported: llama");
  ExpectRefused("model_type", nullptr, "model_type = null");
  ExpectRefused("architectures", {"LlamaForSequenceClassification"},
                "LlamaForSequenceClassification");
  ExpectRefused("attention_bias", true, "attention_bias = true");
  ExpectRefused("mlp_bias", true, "mlp_bias = true");
  ExpectRefused("mlp_bias", "yes", "is not true or false");
  ExpectRefused("hidden_act", "gelu", "hidden_act = \"gelu\"");
  ExpectRefused("rope_scaling", {{"type", "linear"}, {"factor", 2}},
                "rope_scaling.type = \"linear\"");
  ExpectRefused("rope_parameters", {{"rope_type", "llama3"}},
                "rope_parameters.rope_type = \"llama3\"");
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
  EXPECT_THAT(ParseModelConfig(Json::array()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a JSON object")));
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
