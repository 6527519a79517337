#include "coordinator/api/model_service.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/format/model_tensors.h"
#include "common/format/safetensors.h"
#include "coordinator/api/testing/api_fixture.h"

namespace anneal {
namespace {

namespace fs = std::filesystem;

using ::anneal::testing::IsOk;
using ::anneal::testing::IsOkAndHolds;
using ::anneal::testing::kEveKey;
using ::anneal::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr char kConfigJson[] =
    R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8,
  "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 32,
  "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
  "hidden_act": "silu", "torch_dtype": "float32", "eos_token_id": 2})";

class ModelServiceTest : public testing::ApiFixture {
 protected:
  using Stub = v1::ModelService::Stub;

  ModelServiceTest() {
    WriteModel(Source());
    Serve(service_);
    stub_ = v1::ModelService::NewStub(channel_);
  }
  ~ModelServiceTest() override { server_.reset(); }

  std::string Source() const { return folder_ + "/shared/Tiny Llama"; }
  std::string Imported(const std::string& path) const {
    return root_->Absolute("models/vision/" + path);
  }

  void WriteModel(const std::string& folder) {
    WriteFile(folder + "/config.json", kConfigJson);
    WriteFile(folder + "/tokenizer.json", "{}");
    WriteFile(folder + "/chat_template.jinja", "{{ messages }}");
    WriteFile(folder + "/README.md", "no part of it");
    std::vector<TensorSpec> specs;
    for (const ExpectedTensor& tensor : AllTensors(*ParseModelConfig(*ParseJson(kConfigJson)))) {
      specs.push_back({tensor.name, DType::kF32, tensor.shape});
    }
    ANNEAL_ASSERT_OK_AND_ASSIGN(
        auto writer, SafetensorsWriter::Create(folder + "/model.safetensors", specs, {}));
    for (const TensorSpec& spec : specs) {
      int64_t count = 1;
      for (int64_t extent : spec.shape) count *= extent;
      ANNEAL_ASSERT_OK(
          writer->Append<float>(spec.name, std::vector<float>(static_cast<size_t>(count), 0.5f)));
    }
    ANNEAL_ASSERT_OK(writer->Finish());
  }

  absl::StatusOr<v1::Model> Import(const std::string& folder, const std::string& id = "",
                                   const std::string& source_id = "",
                                   const char* key = testing::kAdaKey) {
    v1::ImportModelRequest request;
    request.set_source_uri("file://" + folder);
    request.set_model_id(id);
    request.set_source_id(source_id);
    return Call(*stub_, &Stub::ImportModel, request, key);
  }
  absl::StatusOr<v1::Model> Get(const std::string& name, const char* key = testing::kAdaKey) {
    v1::GetModelRequest request;
    request.set_name(name);
    return Call(*stub_, &Stub::GetModel, request, key);
  }
  absl::StatusOr<v1::ListModelsResponse> List(int size, const std::string& token,
                                              const char* key = testing::kAdaKey) {
    v1::ListModelsRequest request;
    request.set_page_size(size);
    request.set_page_token(token);
    return Call(*stub_, &Stub::ListModels, request, key);
  }
  absl::Status Delete(const std::string& name, const char* key = testing::kAdaKey) {
    v1::DeleteModelRequest request;
    request.set_name(name);
    return Call(*stub_, &Stub::DeleteModel, request, key).status();
  }

  const AllowedRoots allowed_roots_{{folder_ + "/shared"}};
  FileHashCache hashes_{clock_};
  ModelLibrary library_{{*resources_, *limits_, *root_, allowed_roots_, hashes_, clock_}};
  ModelServiceImpl service_{{authenticator_, *resources_, library_, pool_}};
  std::unique_ptr<Stub> stub_;
};

TEST_F(ModelServiceTest, ImportsChecksAndDescribes) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Model model, Import(Source(), "", "example/tiny-llama"));
  EXPECT_EQ(model.name(), "models/tiny-llama");
  EXPECT_EQ(model.family(), "llama");
  EXPECT_EQ(model.max_positions(), 64);
  EXPECT_EQ(model.source_id(), "example/tiny-llama");
  EXPECT_TRUE(model.has_chat_template());
  EXPECT_TRUE(model.has_create_time());
  ANNEAL_ASSERT_OK_AND_ASSIGN(const ModelDirectory source, ReadModelDirectory(Source()));
  EXPECT_EQ(model.parameters(), source.parameters);
  EXPECT_EQ(model.size_bytes(), source.size_bytes);
  EXPECT_THAT(ModelContentHash(source, hashes_), IsOkAndHolds(model.content_hash()));

  ANNEAL_ASSERT_OK_AND_ASSIGN(const ModelDirectory copy,
                              ReadModelDirectory(Imported("tiny-llama")));
  EXPECT_THAT(ModelContentHash(copy, hashes_), IsOkAndHolds(model.content_hash()));
  EXPECT_FALSE(fs::exists(Imported("tiny-llama/README.md")));
  EXPECT_EQ(Get("models/tiny-llama")->content_hash(), model.content_hash());
  // Nothing stays behind.
  EXPECT_TRUE(fs::is_empty(root_->Absolute("tmp/import")));
}

TEST_F(ModelServiceTest, TheSameImportReturnsTheFirst) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Model first, Import(Source(), "m"));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Model again, Import(Source(), "m"));
  EXPECT_EQ(again.create_time().nanos(), first.create_time().nanos());
  EXPECT_THAT(Import(Source(), "m", "other/source"),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("source_id")));
  WriteFile(Source() + "/tokenizer.json", "[]");
  const absl::Status taken = Import(Source(), "m").status();
  EXPECT_THAT(taken, StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("content")));
  EXPECT_EQ(ReasonOf(taken), "MODEL_ID_TAKEN");
  // The imported copy is not touched by what happens to its source.
  EXPECT_THAT(ReadSmallFile(files_, Imported("m/tokenizer.json"), 10), IsOkAndHolds("{}"));
}

TEST_F(ModelServiceTest, ProjectsHaveModelsOfTheirOwn) {
  ANNEAL_ASSERT_OK(Import(Source(), "m"));
  EXPECT_THAT(Get("models/m", kEveKey), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(Delete("models/m", kEveKey), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(List(0, "", kEveKey)->models(), SizeIs(0));
  WriteFile(Source() + "/tokenizer.json", "[]");
  ANNEAL_ASSERT_OK(Import(Source(), "m", "", kEveKey));
  EXPECT_NE(Get("models/m")->content_hash(), Get("models/m", kEveKey)->content_hash());
  EXPECT_THAT(Import(Source(), "m", "", ""), StatusIs(absl::StatusCode::kUnauthenticated));
}

TEST_F(ModelServiceTest, RefusesBadRequests) {
  const auto kBad = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(Import(Source(), "../m"), StatusIs(kBad, HasSubstr("model_id")));
  EXPECT_THAT(Import(Source(), "M"), StatusIs(kBad, HasSubstr("model_id")));
  EXPECT_THAT(Import(Source() + "/../x"), StatusIs(kBad, HasSubstr("source_uri")));
  EXPECT_THAT(Import("relative"), StatusIs(kBad, HasSubstr("source_uri")));
  EXPECT_THAT(Import(Source(), "m", std::string(300, 's')), StatusIs(kBad, HasSubstr("source_id")));
  EXPECT_THAT(Import("/etc"), StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("allowed")));
  EXPECT_THAT(Import(folder_ + "/shared/none"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
  fs::remove(Source() + "/tokenizer.json");
  EXPECT_THAT(Import(Source()), StatusIs(kBad, AllOf(HasSubstr("lacks tokenizer.json"),
                                                     HasSubstr("save_pretrained"))));
  for (const char* name : {"", "models/", "models/../x", "models/a/b", "files/x"}) {
    EXPECT_THAT(Get(name), StatusIs(kBad, HasSubstr("name"))) << name;
    EXPECT_THAT(Delete(name), StatusIs(kBad)) << name;
  }
  EXPECT_THAT(List(0, "")->models(), SizeIs(0));
}

TEST_F(ModelServiceTest, RefusesByNameWhatCannotBeTrained) {
  const auto import_with = [&](const std::string& config) {
    WriteFile(Source() + "/config.json", config);
    return Import(Source());
  };
  Json config = *ParseJson(kConfigJson);
  const auto kBad = absl::StatusCode::kInvalidArgument;
  config["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 4.0}};
  EXPECT_THAT(import_with(DumpJson(config)),
              StatusIs(kBad, HasSubstr("rope_scaling: rope_type = \"yarn\" is not supported")));
  config["rope_scaling"] = nullptr;
  config["num_attention_heads"] = 4;
  EXPECT_THAT(import_with(DumpJson(config)),
              StatusIs(kBad, AllOf(HasSubstr("k_proj.weight"), HasSubstr("[4, 8]"),
                                   HasSubstr("config.json asks for [2, 8]"))));
  config["model_type"] = "gpt2";
  EXPECT_THAT(
      import_with(DumpJson(config)),
      StatusIs(kBad, HasSubstr("model_type = \"gpt2\" is not supported; supported: llama")));
}

TEST_F(ModelServiceTest, LinksMayNotLeadOutside) {
  WriteFile(folder_ + "/private/tokenizer_config.json", R"({"secret": 1})");
  fs::create_symlink(folder_ + "/private/tokenizer_config.json",
                     Source() + "/tokenizer_config.json");
  EXPECT_THAT(Import(Source(), "m"), StatusIs(absl::StatusCode::kPermissionDenied));
  // Not even read: an error about this config would quote it.
  WriteFile(folder_ + "/private/config.json", R"({"model_type": "secret"})");
  fs::remove(Source() + "/config.json");
  fs::create_symlink(folder_ + "/private/config.json", Source() + "/config.json");
  EXPECT_THAT(Import(Source(), "m"),
              StatusIs(absl::StatusCode::kPermissionDenied, ::testing::Not(HasSubstr("secret"))));
  EXPECT_FALSE(fs::exists(Imported("m")));
  fs::remove(Source() + "/config.json");
  WriteFile(Source() + "/config.json", kConfigJson);
  // Within the allowed root they are what the hub's cache is made of.
  fs::remove(Source() + "/tokenizer_config.json");
  WriteFile(folder_ + "/shared/blobs/1", "{}");
  fs::create_symlink("../blobs/1", Source() + "/tokenizer_config.json");
  ANNEAL_ASSERT_OK(Import(Source(), "m"));
  EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(Imported("m/tokenizer_config.json"))));
}

TEST_F(ModelServiceTest, WhatACrashLeftIsNotInTheWay) {
  WriteFile(Imported("m/config.json"), "half a model");
  ANNEAL_ASSERT_OK(Import(Source(), "m"));
  EXPECT_THAT(ReadSmallFile(files_, Imported("m/config.json"), 1000), IsOkAndHolds(kConfigJson));
}

TEST_F(ModelServiceTest, DeletionIsToTheTrashAndFreesTheId) {
  ANNEAL_ASSERT_OK(Import(Source(), "m"));
  ANNEAL_ASSERT_OK(Delete("models/m"));
  EXPECT_THAT(Get("models/m"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_FALSE(fs::exists(Imported("m")));
  EXPECT_THAT(Delete("models/m"), StatusIs(absl::StatusCode::kNotFound));
  ANNEAL_EXPECT_OK(Import(Source(), "m"));
}

TEST_F(ModelServiceTest, ADiskThatIsTooSmallIsSaidBeforehand) {
  files_.SetFreeBytes(100);
  EXPECT_EQ(ReasonOf(Import(Source(), "m").status()), "STORAGE_FULL");
}

TEST_F(ModelServiceTest, ListsInPagesById) {
  for (const char* id : {"c", "a", "b"}) ANNEAL_ASSERT_OK(Import(Source(), id));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::ListModelsResponse first, List(2, ""));
  ASSERT_THAT(first.models(), SizeIs(2));
  EXPECT_EQ(first.models(0).name(), "models/a");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::ListModelsResponse second,
                              List(2, first.next_page_token()));
  ASSERT_THAT(second.models(), SizeIs(1));
  EXPECT_EQ(second.models(0).name(), "models/c");
  EXPECT_EQ(second.next_page_token(), "");
}

}  // namespace
}  // namespace anneal
