#include "common/format/model_directory.h"

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/base/clock.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "common/base/thread.h"
#include "common/format/model_tensors.h"
#include "common/format/safetensors.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOkAndHolds;
using ::anneal::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kConfigJson[] =
    R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8,
  "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 32,
  "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
  "hidden_act": "silu", "torch_dtype": "float32", "eos_token_id": 2})";

class ModelDirectoryTest : public ::testing::Test {
 protected:
  ModelDirectoryTest() {
    Write("config.json", kConfigJson);
    Write("tokenizer.json", "{}");
    WriteWeights("model.safetensors", AllTensors(*ParseModelConfig(*ParseJson(kConfigJson))));
  }

  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(Path(name)) << text;
  }
  void WriteWeights(const std::string& name, const std::vector<ExpectedTensor>& tensors) {
    std::vector<TensorSpec> specs;
    for (const ExpectedTensor& tensor : tensors)
      specs.push_back({tensor.name, DType::kF32, tensor.shape});
    ANNEAL_ASSERT_OK_AND_ASSIGN(auto writer, SafetensorsWriter::Create(Path(name), specs, {}));
    for (const TensorSpec& spec : specs) {
      int64_t count = 1;
      for (int64_t extent : spec.shape) count *= extent;
      const std::vector<float> values(static_cast<size_t>(count), 0.5f);
      ANNEAL_ASSERT_OK(writer->Append<float>(spec.name, values));
    }
    ANNEAL_ASSERT_OK(writer->Finish());
  }

  const testing::TempDir temp_;
  std::string refused_ = "none";
  const std::string folder_ = temp_.path();
  FileHashCache cache_{Clock::Real()};
};

TEST_F(ModelDirectoryTest, KnowsAWholeModel) {
  Write("tokenizer_config.json", R"({"chat_template": "{{ messages }}"})");
  Write("README.md", "not part of it");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const ModelDirectory model, ReadModelDirectory(folder_));
  EXPECT_EQ(model.config.family, "llama");
  EXPECT_EQ(model.config.max_positions, 64);
  EXPECT_EQ(model.parameters, ParameterCount(model.config));
  EXPECT_TRUE(model.has_chat_template);
  std::vector<std::string> names;
  int64_t bytes = 0;
  for (const ModelFile& file : model.files) {
    names.push_back(file.name);
    bytes += file.size_bytes;
  }
  EXPECT_THAT(names, ElementsAre("config.json", "model.safetensors", "tokenizer.json",
                                 "tokenizer_config.json"));
  EXPECT_EQ(model.size_bytes, bytes);
}

TEST_F(ModelDirectoryTest, FindsTheChatTemplateWhereTransformersDoes) {
  EXPECT_FALSE(ReadModelDirectory(folder_)->has_chat_template);
  Write("tokenizer_config.json", R"({"chat_template": null})");
  EXPECT_FALSE(ReadModelDirectory(folder_)->has_chat_template);
  Write("tokenizer_config.json", R"({"chat_template": [{"name": "default", "template": "x"}]})");
  EXPECT_TRUE(ReadModelDirectory(folder_)->has_chat_template);
  std::filesystem::remove(Path("tokenizer_config.json"));
  Write("chat_template.jinja", "{{ messages }}");
  EXPECT_TRUE(ReadModelDirectory(folder_)->has_chat_template);
}

TEST_F(ModelDirectoryTest, TheHashIsWhatSha256sumSays) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(const ModelDirectory model, ReadModelDirectory(folder_));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const std::string weights, Sha256OfFile(Path("model.safetensors")));
  EXPECT_THAT(ModelContentHash(model, cache_),
              IsOkAndHolds(Sha256Hex(absl::StrCat(Sha256Hex(kConfigJson), "  config.json\n",
                                                  weights, "  model.safetensors\n", Sha256Hex("{}"),
                                                  "  tokenizer.json\n"))));
}

TEST_F(ModelDirectoryTest, TheHashFollowsTheContentAndNothingElse) {
  const auto hash = [&] { return *ModelContentHash(*ReadModelDirectory(folder_), cache_); };
  const std::string first = hash();
  Write("README.md", "x");
  EXPECT_EQ(hash(), first);
  Write("tokenizer.json", "[]");  // of the same size
  const std::string second = hash();
  EXPECT_NE(second, first);
  Write("generation_config.json", "{}");
  EXPECT_NE(hash(), second);
}

TEST_F(ModelDirectoryTest, AChangedDirectoryIsSaidToHaveChanged) {
  const std::string hash = *ModelContentHash(*ReadModelDirectory(folder_), cache_);
  ANNEAL_EXPECT_OK(CheckModelUnchanged(folder_, hash));
  Write("tokenizer.json", "[]");
  const absl::Status changed = CheckModelUnchanged(folder_, hash).status();
  EXPECT_THAT(changed, StatusIs(absl::StatusCode::kFailedPrecondition,
                                HasSubstr("has changed since the job was created: its content")));
  EXPECT_EQ(ReasonOf(changed), "MODEL_CHANGED");
  std::filesystem::remove(Path("tokenizer.json"));
  EXPECT_THAT(CheckModelUnchanged(folder_, hash),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("lacks tokenizer.json")));
}

TEST_F(ModelDirectoryTest, OpensAndHashesOnlyWhatItsOpenerLetsItHave) {
  // As if the link was put there after it had been looked at.
  const FileOpener open = [this](const std::string& path) -> absl::StatusOr<UniqueFd> {
    if (path == Path(refused_)) return absl::PermissionDeniedError(path);
    return OpenRegularFile(path);
  };
  Write("tokenizer_config.json", "{}");
  Write("vocab.json", "{}");
  const ModelDirectory model = *ReadModelDirectory(folder_, open);
  ANNEAL_EXPECT_OK(ModelContentHash(model, cache_, open));
  for (const char* name : {"config.json", "tokenizer_config.json"}) {
    refused_ = name;
    EXPECT_THAT(ReadModelDirectory(folder_, open), StatusIs(absl::StatusCode::kPermissionDenied))
        << name;
  }
  // Also where the hash is known already.
  for (const char* name : {"vocab.json", "model.safetensors"}) {
    refused_ = name;
    EXPECT_THAT(ModelContentHash(model, cache_, open),
                StatusIs(absl::StatusCode::kPermissionDenied))
        << name;
  }
}

TEST_F(ModelDirectoryTest, ReadsShardsAndLinksAsHubDownloadsHaveThem) {
  std::filesystem::remove(Path("model.safetensors"));
  const ModelConfig config = *ParseModelConfig(*ParseJson(kConfigJson));
  std::vector<ExpectedTensor> head = AllTensors(config), tail(head.begin() + 2, head.end());
  head.resize(2);
  std::filesystem::create_directory(Path("blobs"));
  WriteWeights("blobs/1111", head);
  WriteWeights("model-00002-of-00002.safetensors", tail);
  std::filesystem::create_symlink("blobs/1111", Path("model-00001-of-00002.safetensors"));
  Json index;
  for (const ExpectedTensor& t : head)
    index["weight_map"][t.name] = "model-00001-of-00002.safetensors";
  for (const ExpectedTensor& t : tail)
    index["weight_map"][t.name] = "model-00002-of-00002.safetensors";
  Write("model.safetensors.index.json", DumpJson(index));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const ModelDirectory model, ReadModelDirectory(folder_));
  EXPECT_EQ(model.files.size(), 5u);
  ANNEAL_EXPECT_OK(ModelContentHash(model, cache_));

  std::filesystem::remove(Path("model-00002-of-00002.safetensors"));
  EXPECT_THAT(ReadModelDirectory(folder_).status().message(),
              HasSubstr("model-00002-of-00002.safetensors"));
  Write("model.safetensors.index.json", R"({"weight_map": {"x": "../../secret.safetensors"}})");
  EXPECT_THAT(ReadModelDirectory(folder_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("same directory")));
}

TEST_F(ModelDirectoryTest, OneReadsAFileForAllWhoAskAtTheSameTime) {
  SimulatedClock clock(Clock::Real().TimeNow() +
                       absl::Hours(1));  // the file is old enough to be remembered
  std::atomic<int> reads = 0;
  absl::Notification second_asks;
  FileHashCache cache(clock, [&](int fd, const std::string& path) {
    ++reads;
    second_asks.WaitForNotification();
    return Sha256OfOpenFile(fd, path);
  });
  const std::string path = folder_ + "/config.json";
  absl::StatusOr<std::string> first, second;
  {
    const Thread one("one", [&] { first = cache.Sha256Of(path); });
    const Thread two("two", [&] {
      while (reads == 0) continue;
      second_asks.Notify();
      second = cache.Sha256Of(path);
    });
  }
  ANNEAL_ASSERT_OK(first.status());
  EXPECT_EQ(*first, *second);
  EXPECT_EQ(reads, 1);
}

TEST_F(ModelDirectoryTest, SaysAllThatIsMissingAndWhatToDo) {
  const auto kBad = absl::StatusCode::kInvalidArgument;
  std::filesystem::remove(Path("tokenizer.json"));
  std::filesystem::remove(Path("model.safetensors"));
  const absl::Status both = ReadModelDirectory(folder_).status();
  EXPECT_THAT(both, StatusIs(kBad, AllOf(HasSubstr("lacks tokenizer.json, model.safetensors"),
                                         HasSubstr("save_pretrained"))));
  EXPECT_EQ(ReasonOf(both), "MODEL_INCOMPLETE");
  Write("pytorch_model.bin", "x");
  EXPECT_THAT(ReadModelDirectory(folder_), StatusIs(kBad, HasSubstr("convert pytorch_model.bin")));
  Write("adapter_config.json", "{}");
  EXPECT_THAT(ReadModelDirectory(folder_), StatusIs(kBad, HasSubstr("adapter")));
  EXPECT_THAT(ReadModelDirectory(folder_ + "/none"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/none")));
  EXPECT_THAT(ReadModelDirectory(Path("config.json")), StatusIs(kBad, HasSubstr("is a file")));
}

TEST_F(ModelDirectoryTest, RefusesHostileFiles) {
  const auto kBad = absl::StatusCode::kInvalidArgument;
  std::filesystem::resize_file(Path("model.safetensors"),
                               std::filesystem::file_size(Path("model.safetensors")) - 1);
  EXPECT_THAT(ReadModelDirectory(folder_), StatusIs(kBad, HasSubstr("model.safetensors")));

  std::filesystem::remove(Path("config.json"));
  std::filesystem::create_symlink("config.json", Path("config.json"));
  EXPECT_THAT(ReadModelDirectory(folder_), StatusIs(kBad, HasSubstr("config.json")));
  std::filesystem::remove(Path("config.json"));
  // Opening a pipe would wait for ever.
  ASSERT_EQ(::mkfifo(Path("config.json").c_str(), 0600), 0);
  EXPECT_THAT(ReadModelDirectory(folder_), StatusIs(kBad, HasSubstr("not a regular file")));
  std::filesystem::remove(Path("config.json"));
  std::filesystem::create_directory(Path("config.json"));
  EXPECT_THAT(ReadModelDirectory(folder_), StatusIs(kBad, HasSubstr("not a regular file")));
}

TEST_F(ModelDirectoryTest, ConfigAndWeightsMustAgree) {
  std::string config = kConfigJson;
  config.replace(config.find("\"vocab_size\": 32"), 16, "\"vocab_size\": 33");
  Write("config.json", config);
  EXPECT_THAT(ReadModelDirectory(folder_),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("embed_tokens"), HasSubstr("[33, 8]"))));
}

}  // namespace
}  // namespace anneal
