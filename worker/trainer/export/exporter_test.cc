#include "worker/trainer/export/exporter.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "common/format/json.h"
#include "common/format/model_directory.h"
#include "common/format/model_tensors.h"
#include "common/format/model_weights.h"
#include "worker/trainer/collective/solo_communicator.h"
#include "worker/trainer/collective/testing/in_process_communicator.h"
#include "worker/trainer/export/model_writer.h"
#include "worker/trainer/export/tensor_file.h"
#include "worker/trainer/model/testing/tiny_model.h"
#include "worker/trainer/shard/sharded_values.h"

namespace anneal::trainer {
namespace {

using ::anneal::testing::StatusIs;
using ::anneal::testing::TempDir;
using ::anneal::trainer::testing::RunOnRanks;
using ::anneal::trainer::testing::TinyBatch;
using ::anneal::trainer::testing::TinyModel;
using ::anneal::trainer::testing::WriteTinyModel;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream out;
  out << file.rdbuf();
  return out.str();
}

// A rank's decoder, with values that were moved away from where they began.
struct Trained {
  Trained(const std::string& base, const protocol::TrainTask& task, Kernels& kernels,
          Communicator& communicator, Sharding sharding, at::ScalarType type)
      : compute_type(type) {
    absl::StatusOr<std::unique_ptr<Decoder>> loaded = Decoder::Load(
        base,
        {.compute_type = type,
         .lora = task.lora,
         .lent = EffectiveSharding(sharding, communicator.world_size()) == Sharding::kFull},
        kernels);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    decoder = *std::move(loaded);
    layout = std::make_unique<FlatLayout>(decoder->units(), kShards, 64);
    frozen_layout = std::make_unique<FlatLayout>(decoder->frozen_units(), kShards, 64);
    values = std::make_unique<ShardedValues>(
        *layout, *frozen_layout, ShardedValues::Options{.sharding = sharding, .compute_type = type},
        *decoder, communicator);
    EXPECT_TRUE(values->Initialise(/*seed=*/1).ok());
    for (size_t unit = 0; unit < layout->units().size(); ++unit) {
      UnitBuffer change = ZeroUnitBuffer(layout->units()[unit], at::kCPU);
      if (!change.flat.defined()) continue;
      for (at::Tensor& view : change.views) {
        view.copy_(at::arange(view.numel(), at::kFloat).sin_().mul_(0.1).view(view.sizes()));
      }
      at::Tensor own = values->own()[unit];
      own += values->part().Of(change.flat);
    }
    EXPECT_TRUE(values->Share("after training").ok());
  }

  static constexpr int kShards = 2;
  at::ScalarType compute_type;
  std::unique_ptr<Decoder> decoder;
  std::unique_ptr<FlatLayout> layout, frozen_layout;
  std::unique_ptr<ShardedValues> values;
};

class ExporterTest : public ::testing::Test {
 protected:
  ExporterTest()
      : base_(root_.path() + "/base"), out_(root_.path() + "/out"), kernels_(MakeCpuKernels()) {
    std::filesystem::create_directories(out_);
    model_ = WriteTinyModel(base_, /*tied=*/true, at::kBFloat16);
    task_.model_dir = base_;
    task_.model_source_id = "org/tiny";
  }

  absl::StatusOr<std::unique_ptr<Decoder>> LoadPlain(const std::string& dir) {
    return Decoder::Load(dir, {}, *kernels_);
  }
  absl::StatusOr<Exported> Export(Trained& trained) {
    return Export(trained, *communicator_, out_,
                  [&](const std::string& dir, const DecoderOptions& options) {
                    return Decoder::Load(dir, options, *kernels_);
                  });
  }
  absl::StatusOr<Exported> Export(Trained& trained, Communicator& communicator,
                                  const std::string& dir, const LoadModelDirectory& load) {
    return ExportTrained({task_, *trained.decoder, *trained.values, communicator,
                          DecoderOptions{.compute_type = trained.compute_type}, load,
                          /*base_digests=*/{}},
                         dir);
  }
  Trained Train(at::ScalarType compute_type = at::kFloat) {
    return Trained(base_, task_, *kernels_, *communicator_, Sharding::kNone, compute_type);
  }
  Json ReadJson(const std::string& path) {
    absl::StatusOr<Json> json = ReadJsonFile(path);
    EXPECT_TRUE(json.ok()) << json.status();
    return json.value_or(Json());
  }

  const TempDir root_;
  const std::string base_, out_;
  const std::unique_ptr<Kernels> kernels_;
  const std::unique_ptr<Communicator> communicator_ = MakeSoloCommunicator();
  TinyModel model_;
  protocol::TrainTask task_;
};

TEST_F(ExporterTest, AnAdapterHasPeftsNamesAndReadsBack) {
  task_.lora = protocol::LoraOptions{.rank = 4, .alpha = 8, .dropout = 0.1};
  Trained trained = Train();
  const at::Tensor logits = trained.decoder->Logits(TinyBatch(model_.config));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const Exported exported, Export(trained));
  EXPECT_EQ(exported.primary, "adapter");
  EXPECT_FALSE(std::filesystem::exists(out_ + "/merged"));
  EXPECT_TRUE(trained.decoder->Logits(TinyBatch(model_.config)).equal(logits));

  const Json config = ReadJson(out_ + "/adapter/adapter_config.json");
  EXPECT_EQ(config["base_model_name_or_path"], "org/tiny");
  EXPECT_EQ(config["r"], 4);
  EXPECT_EQ(config["lora_alpha"], 8);
  EXPECT_EQ(config["target_modules"],
            Json({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto file,
                              SafetensorsFile::Open(out_ + "/adapter/adapter_model.safetensors"));
  EXPECT_EQ(file->metadata().at("format"), "pt");
  EXPECT_THAT(file->tensors(), SizeIs(2 * 7 * 2));
  ANNEAL_ASSERT_OK_AND_ASSIGN(
      const TensorView* b,
      file->Find("base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight"));
  EXPECT_THAT(b->shape, ElementsAre(16, 4));
  EXPECT_EQ(b->dtype, DType::kF32);

  ANNEAL_ASSERT_OK_AND_ASSIGN(const protocol::LoraOptions lora,
                              ReadAdapterConfig(out_ + "/adapter"));
  EXPECT_EQ(lora.rank, 4);
  EXPECT_EQ(lora.alpha, 8);
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto again,
                              LoadWithAdapter(base_, out_ + "/adapter", *kernels_));
  EXPECT_TRUE(again->Logits(TinyBatch(model_.config)).equal(logits));
}

TEST_F(ExporterTest, AMergedModelGivesTheAdaptersLogits) {
  task_.lora =
      protocol::LoraOptions{.rank = 4, .alpha = 8, .target_modules = {"mlp.up_proj", "q_proj"}};
  task_.export_merged = true;
  Trained trained = Train();
  ANNEAL_ASSERT_OK(Export(trained));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto merged, LoadPlain(out_ + "/merged"));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto base, LoadPlain(base_));
  const at::Tensor wanted = trained.decoder->Logits(TinyBatch(model_.config));
  const auto distance = [&](Decoder& to) {
    return (to.Logits(TinyBatch(model_.config)) - wanted).abs().max().item<double>();
  };
  EXPECT_LT(distance(*merged), 1e-4);
  EXPECT_GT(distance(*base), 1e-2);
}

TEST_F(ExporterTest, AFullModelIsADirectoryOfItsOwn) {
  std::ofstream(base_ + "/generation_config.json") << R"({"bos_token_id":1,"eos_token_id":[7,2]})";
  Trained trained = Train();
  ANNEAL_ASSERT_OK_AND_ASSIGN(const Exported exported, Export(trained));
  EXPECT_EQ(exported.primary, "model");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto stored, LoadPlain(out_ + "/model"));
  EXPECT_TRUE(stored->Logits(TinyBatch(model_.config))
                  .equal(trained.decoder->Logits(TinyBatch(model_.config))));
  EXPECT_EQ(stored->config().dtype, "float32");
  EXPECT_EQ(ReadText(out_ + "/model/tokenizer.json"), ReadText(base_ + "/tokenizer.json"));
  const Json generation = ReadJson(out_ + "/model/generation_config.json");
  EXPECT_EQ(generation["eos_token_id"],
            Json({7, 2, 3}));  // the base's, and the tokenizer's end of turn
  EXPECT_EQ(generation["bos_token_id"], 1);
}

TEST_F(ExporterTest, Bfloat16JobsExportBfloat16) {
  task_.precision = "BF16";
  Trained trained = Train(at::kBFloat16);
  ANNEAL_ASSERT_OK(Export(trained));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const ModelConfig config, ReadModelConfig(out_ + "/model"));
  EXPECT_EQ(config.dtype, "bfloat16");
}

TEST_F(ExporterTest, RanksThatHoldPartsExportTheSameBytes) {
  struct Case {
    std::string name, file;
    std::optional<protocol::LoraOptions> lora;
    std::string precision = "FP32";
  };
  const protocol::LoraOptions lora{.rank = 4, .alpha = 8};
  for (const Case& c : {Case{"full", "/model/model.safetensors", std::nullopt},
                        Case{"full in bf16", "/model/model.safetensors", std::nullopt, "BF16"},
                        Case{"adapter", "/adapter/adapter_model.safetensors", lora},
                        Case{"merged", "/merged/model.safetensors", lora}}) {
    SCOPED_TRACE(c.name);
    task_.lora = c.lora;
    task_.precision = c.precision;
    task_.export_merged = c.lora.has_value();
    const at::ScalarType type = c.precision == "BF16" ? at::kBFloat16 : at::kFloat;
    Trained alone = Train(type);
    ANNEAL_ASSERT_OK(Export(alone));
    for (const Sharding sharding : {Sharding::kNone, Sharding::kOptimizer, Sharding::kFull}) {
      SCOPED_TRACE(ShardingName(sharding));
      const TempDir dir;
      ANNEAL_ASSERT_OK(RunOnRanks(2, [&](Communicator& communicator) {
        const std::unique_ptr<Kernels> kernels = MakeCpuKernels();
        Trained trained(base_, task_, *kernels, communicator, sharding, type);
        const auto load = [&](const std::string& from, const DecoderOptions& options) {
          return Decoder::Load(from, options, *kernels);
        };
        return Export(trained, communicator, dir.path(), load).status();
      }));
      EXPECT_EQ(ReadText(dir.path() + c.file), ReadText(out_ + c.file));
    }
  }
}

TEST_F(ExporterTest, LargeModelsAreShardedWithAnIndex) {
  Trained trained = Train();
  const auto weights = [&](const std::string& name) -> absl::StatusOr<at::Tensor> {
    return model_.weights.at(name);
  };
  ANNEAL_ASSERT_OK(WriteModelDirectory({base_, {}}, model_.config, weights,
                                       {.max_shard_bytes = 20'000}, out_ + "/model"));
  EXPECT_FALSE(std::filesystem::exists(out_ + "/model/model.safetensors"));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto stored, ModelWeights::Open(out_ + "/model"));
  EXPECT_GT(stored->paths().size(), 3u);
  ANNEAL_EXPECT_OK(stored->CheckAgainst(model_.config));
  const Json index = ReadJson(out_ + "/model/model.safetensors.index.json");
  EXPECT_EQ(index["metadata"]["total_size"], 4 * ParameterCount(model_.config));
  for (const std::string& path : stored->paths()) {
    EXPECT_LT(std::filesystem::file_size(path), 23'000u) << path;
    EXPECT_THAT(path, HasSubstr(absl::StrCat("-of-0000", stored->paths().size())));
  }
}

TEST_F(ExporterTest, NoFileThatTookTheBasesPlaceIsExported) {
  FileHashCache cache(Clock::Real());
  std::ofstream(base_ + "/vocab.json") << "{}";
  ANNEAL_ASSERT_OK_AND_ASSIGN(const ModelDirectory base, ReadModelDirectory(base_));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const ModelDigests digests, DigestModel(base, cache));
  const auto weights = [&](const std::string& name) -> absl::StatusOr<at::Tensor> {
    return model_.weights.at(name);
  };
  const auto write = [&](const std::string& name) {
    return WriteModelDirectory({base_, digests}, model_.config, weights, {}, out_ + "/" + name);
  };
  ANNEAL_ASSERT_OK(write("untouched"));
  EXPECT_EQ(ReadText(out_ + "/untouched/vocab.json"), "{}");

  std::ofstream(root_.path() + "/foreign") << "secret";
  std::filesystem::remove(base_ + "/vocab.json");
  std::filesystem::create_symlink(root_.path() + "/foreign", base_ + "/vocab.json");
  const absl::Status swapped = write("swapped");
  EXPECT_THAT(swapped, StatusIs(absl::StatusCode::kFailedPrecondition,
                                HasSubstr("vocab.json holds other bytes")));
  EXPECT_EQ(ReasonOf(swapped), "MODEL_CHANGED");
  EXPECT_FALSE(std::filesystem::exists(out_ + "/swapped/vocab.json"));

  std::filesystem::remove(base_ + "/vocab.json");
  ASSERT_EQ(::mkfifo((base_ + "/vocab.json").c_str(), 0600), 0);
  EXPECT_THAT(write("pipe"), StatusIs(absl::StatusCode::kFailedPrecondition,
                                      HasSubstr("vocab.json is not a regular file")));
}

TEST_F(ExporterTest, AWrongExportIsNotLetOut) {
  Trained trained = Train();
  const auto load_base = [&](const std::string&, const DecoderOptions&) {
    return LoadPlain(base_);
  };
  EXPECT_THAT(Export(trained, *communicator_, out_, load_base),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("differ from the trained model's")));
}

TEST_F(ExporterTest, ForeignAdaptersAreReadOrRefusedByField) {
  task_.lora = protocol::LoraOptions{.rank = 4, .alpha = 8};
  Trained trained = Train();
  ANNEAL_ASSERT_OK(Export(trained));
  const std::string dir = out_ + "/adapter", path = dir + "/adapter_config.json";
  const Json good = ReadJson(path);
  const auto refused = [&](const char* field, const Json& value, const std::string& why) {
    Json json = good;
    json[field] = value;
    std::ofstream(path) << DumpJson(json);
    EXPECT_THAT(ReadAdapterConfig(dir),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(why)));
  };
  refused("peft_type", "IA3", "peft_type is not \"LORA\"");
  refused("use_dora", true, "use_dora = true is not supported");
  refused("bias", "all", "bias = \"all\" is not supported");
  refused("exclude_modules", {"q_proj"}, "exclude_modules = [\"q_proj\"] is not supported");
  refused("modules_to_save", {7}, "modules_to_save is not a list of names");
  refused("rank_pattern", {{"[qk]_proj", 2}},
          "rank_pattern: \"[qk]_proj\": 2 is not a module's name");
  refused("alpha_pattern", {{"q_proj", 0}}, "alpha_pattern: \"q_proj\": 0");
  refused("r", 0, "r is no rank");
  refused("r", "four", "r is no rank");
  refused("lora_alpha", nullptr, "lora_alpha is not a number");
  refused("target_modules", 3, "target_modules");

  ANNEAL_ASSERT_OK_AND_ASSIGN(
      const auto other,
      Decoder::Load(base_, {.lora = protocol::LoraOptions{.rank = 2}}, *kernels_));
  EXPECT_THAT(ReadAdapterValues(dir, *other),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("has shape [4, 32] where the model asks for [2, 32]")));
  const auto fewer = Decoder::Load(
      base_, {.lora = protocol::LoraOptions{.rank = 4, .target_modules = {"q_proj"}}}, *kernels_);
  EXPECT_THAT(ReadAdapterValues(dir, **fewer), StatusIs(absl::StatusCode::kInvalidArgument,
                                                        HasSubstr("belongs to no adapted module")));
}

}  // namespace
}  // namespace anneal::trainer
