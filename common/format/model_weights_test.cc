#include "common/format/model_weights.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/format/model_tensors.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOk;
using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;

class ModelWeightsTest : public ::testing::Test {
 protected:
  ModelWeightsTest() : dir_(absl::StrCat(::testing::TempDir(), "model_weights_", ::getpid())) {
    std::filesystem::create_directories(dir_);
    config_.family = "llama";
    config_.hidden_size = config_.intermediate_size = 2;
    config_.layers = config_.heads = config_.kv_heads = 1;
    config_.head_dim = 2;
    config_.vocab_size = 3;
    config_.tie_word_embeddings = true;
  }
  ~ModelWeightsTest() override { std::filesystem::remove_all(dir_); }

  void Write(absl::string_view file, const std::vector<TensorSpec>& specs) {
    ANNEAL_ASSERT_OK_AND_ASSIGN(
        auto writer, SafetensorsWriter::Create(absl::StrCat(dir_, "/", file), specs, {}));
    for (const TensorSpec& spec : specs) {
      size_t bytes = DTypeBytes(spec.dtype);
      for (int64_t extent : spec.shape) bytes *= static_cast<size_t>(extent);
      ANNEAL_ASSERT_OK(writer->Append(spec.name, std::vector<std::byte>(bytes)));
    }
    ANNEAL_ASSERT_OK(writer->Finish());
  }
  void WriteIndex(absl::string_view text) {
    std::ofstream(dir_ + "/model.safetensors.index.json") << text;
  }
  void ExpectOpenRefused(absl::string_view index, const std::string& why) {
    WriteIndex(index);
    EXPECT_THAT(ModelWeights::Open(dir_),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(why)))
        << index;
  }
  std::vector<TensorSpec> AllSpecs() const {
    std::vector<TensorSpec> specs;
    for (const ExpectedTensor& tensor : AllTensors(config_))
      specs.push_back({tensor.name, DType::kBf16, tensor.shape});
    return specs;
  }
  absl::Status CheckWith(const std::vector<TensorSpec>& specs) {
    Write("model.safetensors", specs);
    ANNEAL_ASSIGN_OR_RETURN(const auto weights, ModelWeights::Open(dir_));
    return weights->CheckAgainst(config_);
  }

  const std::string dir_;
  ModelConfig config_;
};

TEST_F(ModelWeightsTest, ReadsShardsByTheirIndex) {
  EXPECT_THAT(ModelWeights::Open(dir_),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("converted to safetensors")));
  Write("a.safetensors", {{"x", DType::kF32, {2}}});
  Write("b.safetensors", {{"y", DType::kF32, {3}}});
  WriteIndex(
      R"({"metadata":{"total_size":20},"weight_map":{"x":"a.safetensors","y":"b.safetensors"}})");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto weights, ModelWeights::Open(dir_));
  EXPECT_EQ(weights->tensors().at("y").view->shape, std::vector<int64_t>{3});
  EXPECT_EQ(weights->paths().size(), 2u);
}

TEST_F(ModelWeightsTest, RefusesAHostileIndex) {
  Write("a.safetensors", {{"x", DType::kF32, {2}}});
  Write("b.safetensors", {{"x", DType::kF32, {2}}, {"y", DType::kF32, {2}}});
  ExpectOpenRefused("[]", "weight_map is missing");
  ExpectOpenRefused(R"({"weight_map":[]})", "weight_map is missing or not an object");
  ExpectOpenRefused(R"({"weight_map":{"x":7}})", "weight_map.x is not a string");
  ExpectOpenRefused(R"({"weight_map":{"x":"../a.safetensors"}})",
                    "not the name of a .safetensors file");
  ExpectOpenRefused(R"({"weight_map":{"x":"/etc/passwd"}})", "not the name of a .safetensors file");
  ExpectOpenRefused(R"({"weight_map":{"x":"a.bin"}})", "not the name of a .safetensors file");
  ExpectOpenRefused(R"({"weight_map":{"x":"a.safetensors","x":"a.safetensors"}})", "occurs twice");
  ExpectOpenRefused(R"({"weight_map":{"z":"a.safetensors"}})", "\"z\" is not in a.safetensors");
  ExpectOpenRefused(R"({"weight_map":{"x":"a.safetensors","y":"b.safetensors"}})",
                    "\"x\" is both in");
  WriteIndex(R"({"weight_map":{"x":"absent.safetensors"}})");
  EXPECT_THAT(ModelWeights::Open(dir_),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("absent.safetensors")));
}

TEST_F(ModelWeightsTest, ComparesWithTheConfig) {
  std::vector<TensorSpec> specs = AllSpecs();
  EXPECT_THAT(CheckWith(specs), IsOk());
  specs.push_back({"lm_head.weight", DType::kBf16, {3, 2}});
  specs.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", DType::kF32, {1}});
  EXPECT_THAT(CheckWith(specs), IsOk());
  specs.push_back({"model.layers.0.self_attn.q_proj.bias", DType::kBf16, {2}});
  EXPECT_THAT(CheckWith(specs), StatusIs(absl::StatusCode::kInvalidArgument,
                                         HasSubstr("q_proj.bias\" belongs to no part")));

  specs = AllSpecs();
  specs[0].shape = {4, 2};
  EXPECT_THAT(CheckWith(specs),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("has shape [4, 2] where config.json asks for [3, 2]")));
  specs = AllSpecs();
  specs[0].dtype = DType::kI32;
  EXPECT_THAT(CheckWith(specs),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("holds I32; supported")));
  specs = AllSpecs();
  specs.pop_back();
  EXPECT_THAT(CheckWith(specs),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("lack tensor \"model.norm.weight\" of shape [2]")));
}

TEST_F(ModelWeightsTest, NamesTheTensorThatHoldsNanOrInfinity) {
  const auto check = [&](DType dtype, const std::vector<std::byte>& element) {
    ANNEAL_ASSIGN_OR_RETURN(
        const auto writer,
        SafetensorsWriter::Create(dir_ + "/model.safetensors",
                                  {{"good", DType::kF32, {1}}, {"x", dtype, {3000}}}, {}));
    ANNEAL_RETURN_IF_ERROR(writer->Append<float>("good", std::vector<float>{1e38f}));
    std::vector<std::byte> bytes(3000 * element.size());
    std::copy(element.begin(), element.end(), bytes.end() - static_cast<int64_t>(element.size()));
    ANNEAL_RETURN_IF_ERROR(writer->Append("x", bytes));
    ANNEAL_RETURN_IF_ERROR(writer->Finish());
    ANNEAL_ASSIGN_OR_RETURN(const auto weights, ModelWeights::Open(dir_));
    return weights->CheckFinite();
  };
  const auto bytes = [](uint64_t bits, size_t count) {
    std::vector<std::byte> out;
    for (size_t i = 0; i < count; ++i) out.push_back(static_cast<std::byte>(bits >> (8 * i)));
    return out;
  };
  const auto refused = StatusIs(absl::StatusCode::kInvalidArgument,
                                HasSubstr("model.safetensors: tensor \"x\" holds NaN or infinity"));
  EXPECT_THAT(check(DType::kF32, bytes(0x7fc00000, 4)), refused);
  EXPECT_THAT(check(DType::kF32, bytes(0xff800000, 4)), refused);  // -infinity
  EXPECT_THAT(check(DType::kF32, bytes(0x7f7fffff, 4)), IsOk());   // the largest float
  EXPECT_THAT(check(DType::kF16, bytes(0x7c00, 2)), refused);
  EXPECT_THAT(check(DType::kF16, bytes(0x7bff, 2)), IsOk());
  EXPECT_THAT(check(DType::kBf16, bytes(0xffc0, 2)), refused);
  EXPECT_THAT(check(DType::kBf16, bytes(0x7f7f, 2)), IsOk());
}

}  // namespace
}  // namespace anneal
