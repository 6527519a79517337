// The hand-written decoder against autograd on plain operators: every gradient, LoRA and full, tied
// and untied.

#include "worker/trainer/model/decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <torch/csrc/autograd/autograd.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/base/status_matchers.h"
#include "common/format/safetensors.h"
#include "worker/trainer/model/testing/reference_llama.h"
#include "worker/trainer/model/testing/tiny_model.h"

namespace anneal::trainer {
namespace {

using ::anneal::testing::StatusIs;
using ::anneal::trainer::testing::ReferenceLogits;
using ::anneal::trainer::testing::ReferenceLora;
using ::anneal::trainer::testing::TinyBatch;
using ::anneal::trainer::testing::TinyModel;
using ::anneal::trainer::testing::WriteTinyModel;
using ::testing::HasSubstr;

constexpr double kLossScale = 0.37;

double RelativeError(const at::Tensor& actual, const at::Tensor& expected) {
  const at::Tensor wanted = expected.detach().to(at::kDouble);
  return ((actual.to(at::kDouble) - wanted).norm() / wanted.norm().clamp_min(1e-30)).item<double>();
}

// What a training step does with a decoder, with buffers of its own.
struct Step {
  std::vector<std::vector<at::Tensor>> values, gradients;
  HeadResult head;
};
Step RunStep(Decoder& decoder, const MicroBatch& batch, at::ScalarType type,
             const std::function<void(const ParameterSpec&, at::Tensor&)>& adjust) {
  Step step;
  const int units = static_cast<int>(decoder.units().size());
  for (int u = 0; u < units; ++u) {
    auto& values = step.values.emplace_back();
    auto& gradients = step.gradients.emplace_back();
    for (const ParameterSpec& spec : decoder.units()[u].parameters) {
      values.push_back(at::empty(spec.shape, type));
      gradients.push_back(at::full(spec.shape, std::numeric_limits<double>::quiet_NaN(), type));
    }
    EXPECT_TRUE(decoder.InitialValues(u, 3, values).ok());
    for (size_t i = 0; i < values.size(); ++i) adjust(decoder.units()[u].parameters[i], values[i]);
    decoder.Bind(u, values);
  }
  const Cell cell = decoder.MakeCell(batch);
  std::vector<BlockSaved> saved(decoder.config().layers);
  at::Tensor x = decoder.EmbedForward(cell);
  for (size_t layer = 0; layer < saved.size(); ++layer)
    x = decoder.BlockForward(layer, x, cell, &saved[layer]);
  std::span<at::Tensor> tied;
  if (decoder.config().tie_word_embeddings) tied = step.gradients[0];
  const int64_t choices[] = {5, 96};
  step.head = decoder.Head(x, cell, kLossScale, step.gradients[units - 1], tied, choices);
  at::Tensor dx = step.head.dx_TD;
  for (int unit = units - 2; unit >= std::max(1, decoder.lowest_trainable_unit()); --unit) {
    const bool need_dx = unit > decoder.lowest_trainable_unit();
    dx = decoder.BlockBackward(unit - 1, dx, cell, saved[unit - 1], step.gradients[unit], need_dx);
    EXPECT_EQ(dx.defined(), need_dx);
  }
  if (dx.defined()) decoder.EmbedBackward(dx, cell, step.gradients[0]);
  return step;
}

class DecoderTest : public ::testing::Test {
 protected:
  DecoderTest()
      : dir_(absl::StrCat(::testing::TempDir(), "decoder_", ::getpid())),
        kernels_(MakeCpuKernels()) {}
  ~DecoderTest() override { std::filesystem::remove_all(dir_); }

  std::unique_ptr<Decoder> Load(at::ScalarType type, std::optional<protocol::LoraOptions> lora) {
    absl::StatusOr<std::unique_ptr<Decoder>> decoder =
        Decoder::Load(dir_, {.compute_type = type, .lora = std::move(lora)}, *kernels_);
    EXPECT_TRUE(decoder.ok()) << decoder.status();
    return *std::move(decoder);
  }
  void CheckAgainstAutograd(bool tied, std::optional<protocol::LoraOptions> lora,
                            at::ScalarType type, double tolerance);

  const std::string dir_;
  const std::unique_ptr<Kernels> kernels_;
};

void DecoderTest::CheckAgainstAutograd(bool tied, std::optional<protocol::LoraOptions> lora,
                                       at::ScalarType type, double tolerance) {
  SCOPED_TRACE(absl::StrCat(tied ? "tied" : "untied", lora ? ", LoRA" : ", full", ", ",
                            c10::toString(type)));
  const TinyModel model = WriteTinyModel(dir_, tied);
  const MicroBatch batch = TinyBatch(model.config);
  const std::unique_ptr<Decoder> decoder = Load(type, lora);
  at::manual_seed(5);
  const Step step =
      RunStep(*decoder, batch, type, [&](const ParameterSpec& spec, at::Tensor& value) {
        if (lora)
          value.copy_(0.3 * at::randn(spec.shape));  // B = 0 would hide half of the gradients
      });

  std::map<std::string, at::Tensor> weights;
  for (const auto& [name, value] : model.weights) weights[name] = value.to(at::kDouble);
  ReferenceLora reference_lora = {.scale = lora ? lora->alpha / lora->rank : 0};
  std::vector<at::Tensor> leaves;
  for (size_t u = 0; u < step.values.size(); ++u) {
    for (size_t i = 0; i < step.values[u].size(); ++i) {
      const at::Tensor leaf =
          step.values[u][i].to(at::kDouble, false, /*copy=*/true).set_requires_grad(true);
      (lora ? reference_lora.weights : weights)[decoder->units()[u].parameters[i].name] = leaf;
      leaves.push_back(leaf);
    }
  }
  const at::Tensor logits = ReferenceLogits(model.config, weights, reference_lora, batch);
  const at::Tensor positions = at::tensor(batch.supervised_positions, at::kLong);
  const at::Tensor at_supervised = logits.index_select(0, positions);
  const at::Tensor losses = -at::log_softmax(at_supervised, 1)
                                 .gather(1, at::tensor(batch.targets, at::kLong).unsqueeze(1))
                                 .squeeze(1);
  const std::vector<at::Tensor> expected =
      torch::autograd::grad({losses.sum() * kLossScale}, leaves);

  EXPECT_LT(RelativeError(decoder->Logits(batch), logits), tolerance);
  EXPECT_LT(RelativeError(step.head.losses_S, losses), tolerance);
  EXPECT_LT(RelativeError(step.head.choice_logits_SN,
                          at_supervised.index_select(1, at::tensor({5, 96}, at::kLong))),
            tolerance);
  size_t leaf = 0;
  for (size_t u = 0; u < step.gradients.size(); ++u) {
    for (size_t i = 0; i < step.gradients[u].size(); ++i, ++leaf) {
      EXPECT_LT(RelativeError(step.gradients[u][i], expected[leaf]), tolerance)
          << decoder->units()[u].parameters[i].name;
    }
  }
}

protocol::LoraOptions Lora(std::vector<std::string> targets) {
  return {.rank = 4, .alpha = 6, .target_modules = std::move(targets)};
}

TEST_F(DecoderTest, GradientsMatchAutograd) {
  for (const auto& [type, tolerance] : {std::pair(at::kDouble, 1e-9), {at::kFloat, 1e-4}}) {
    for (const bool tied : {false, true}) {
      CheckAgainstAutograd(tied, std::nullopt, type, tolerance);
      CheckAgainstAutograd(tied, Lora({"all-linear"}), type, tolerance);
    }
    CheckAgainstAutograd(true, Lora({"q_proj", "mlp.down_proj"}), type, tolerance);
    CheckAgainstAutograd(true, Lora({"model.layers.1.self_attn.v_proj"}), type, tolerance);
  }
}

TEST_F(DecoderTest, NothingIsComputedBelowTheLowestAdapter) {
  const TinyModel model = WriteTinyModel(dir_, true);
  EXPECT_EQ(Load(at::kFloat, Lora({"model.layers.1.mlp.up_proj"}))->lowest_trainable_unit(), 2);
  EXPECT_EQ(Load(at::kFloat, Lora({"up_proj"}))->lowest_trainable_unit(), 1);
  EXPECT_EQ(Load(at::kFloat, std::nullopt)->lowest_trainable_unit(), 0);
}

TEST_F(DecoderTest, StoredHalvesLoadExactly) {
  for (const at::ScalarType type : {at::kHalf, at::kBFloat16}) {
    const TinyModel model = WriteTinyModel(dir_, true, type);
    const std::unique_ptr<Decoder> decoder = Load(at::kFloat, std::nullopt);
    std::vector<at::Tensor> values = {at::empty({97, 32})};
    ANNEAL_ASSERT_OK(decoder->InitialValues(0, 0, values));
    EXPECT_TRUE(values[0].equal(model.weights.at("model.embed_tokens.weight")));
  }
}

TEST_F(DecoderTest, InitialAdaptersFollowPeftAndTheSeed) {
  WriteTinyModel(dir_, true);
  const std::unique_ptr<Decoder> decoder = Load(at::kFloat, Lora({"gate_proj"}));
  const auto draw = [&](int unit, uint64_t seed) {
    std::vector<at::Tensor> values = {at::empty({4, 32}), at::empty({56, 4})};
    EXPECT_TRUE(decoder->InitialValues(unit, seed, values).ok());
    return values;
  };
  const std::vector<at::Tensor> values = draw(1, 9);
  const double bound = 1 / std::sqrt(32.0);
  EXPECT_LE(values[0].abs().max().item<double>(), bound);
  EXPECT_GT(values[0].abs().max().item<double>(), 0.9 * bound);
  EXPECT_NEAR(values[0].mean().item<double>(), 0, 0.3 * bound);
  EXPECT_EQ(values[1].abs().max().item<double>(), 0);
  EXPECT_TRUE(draw(1, 9)[0].equal(values[0]));
  EXPECT_FALSE(draw(1, 10)[0].equal(values[0]));
  EXPECT_FALSE(draw(2, 9)[0].equal(values[0]));
}

// d loss / d parameter by central differences: the same masks must serve forward and backward.
TEST_F(DecoderTest, DropoutDrawsTheSameMaskForwardAndBackward) {
  const TinyModel model = WriteTinyModel(dir_, true);
  const MicroBatch batch = TinyBatch(model.config);
  protocol::LoraOptions lora = Lora({"all-linear"});
  lora.dropout = 0.3;
  const auto loss = [&](double nudge, Step* out) {
    const std::unique_ptr<Decoder> decoder = Load(at::kDouble, lora);
    decoder->SetDropoutKey(std::pair(uint64_t{1}, int64_t{2}));
    at::manual_seed(5);
    Step step =
        RunStep(*decoder, batch, at::kDouble, [&](const ParameterSpec& spec, at::Tensor& value) {
          value.copy_(0.3 * at::randn(spec.shape));
          if (spec.name == "model.layers.0.self_attn.k_proj.lora_A.weight") value[1][7] += nudge;
        });
    const double sum = step.head.losses_S.sum().item<double>() * kLossScale;
    if (out != nullptr) *out = std::move(step);
    return sum;
  };
  Step step;
  const double with_dropout = loss(0, &step);
  const double slope = (loss(1e-5, nullptr) - loss(-1e-5, nullptr)) / 2e-5;
  EXPECT_NEAR(step.gradients[1][2][1][7].item<double>(), slope, 1e-8);
  lora.dropout = 0;
  EXPECT_NE(loss(0, nullptr), with_dropout);
}

TEST_F(DecoderTest, ACellWithoutSupervisionHasZeroGradients) {
  const TinyModel model = WriteTinyModel(dir_, true);
  MicroBatch batch = TinyBatch(model.config);
  batch.supervised_positions.clear();
  batch.targets.clear();
  batch.supervised_rows.clear();
  const std::unique_ptr<Decoder> decoder = Load(at::kFloat, std::nullopt);
  const Step step = RunStep(*decoder, batch, at::kFloat, [](const ParameterSpec&, at::Tensor&) {});
  EXPECT_EQ(step.head.losses_S.numel(), 0);
  for (const auto& unit : step.gradients) {
    for (const at::Tensor& gradient : unit) EXPECT_EQ(gradient.abs().max().item<float>(), 0);
  }
}

TEST_F(DecoderTest, RefusesBadModelsAndTargetsByName) {
  const TinyModel model = WriteTinyModel(dir_, true);
  const auto load = [&](std::vector<std::string> targets) {
    return Decoder::Load(dir_, {.lora = Lora(std::move(targets))}, *kernels_).status();
  };
  EXPECT_THAT(
      load({"q_proj", "c_attn"}),
      StatusIs(
          absl::StatusCode::kInvalidArgument,
          HasSubstr(
              "\"c_attn\" matches no linear layer; there are q_proj, k_proj, v_proj, o_proj")));
  EXPECT_THAT(load({}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("target_modules is empty")));
  EXPECT_THAT(load({"all-linear", "q_proj"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("stands alone")));

  // One NaN at the very end of the file: the last tensor.
  std::fstream file(dir_ + "/model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-4, std::ios::end);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  file.write(reinterpret_cast<const char*>(&nan), 4);
  file.close();
  EXPECT_THAT(load({"q_proj"}), StatusIs(absl::StatusCode::kInvalidArgument,
                                         HasSubstr("\"model.norm.weight\" holds NaN or infinity")));
  std::filesystem::remove(dir_ + "/config.json");
  EXPECT_THAT(load({"q_proj"}), StatusIs(absl::StatusCode::kNotFound, HasSubstr("config.json")));
}

TEST_F(DecoderTest, Bfloat16StaysNearFloat) {
  const TinyModel model = WriteTinyModel(dir_, true);
  const MicroBatch batch = TinyBatch(model.config);
  const std::unique_ptr<Decoder> exact = Load(at::kFloat, std::nullopt),
                                 coarse = Load(at::kBFloat16, std::nullopt);
  const auto run = [&](Decoder& decoder) {
    return RunStep(decoder, batch, at::kFloat, [](const ParameterSpec&, at::Tensor&) {});
  };
  const Step expected = run(*exact), actual = run(*coarse);
  // bfloat16 keeps 8 bits; errors of single products mostly cancel.
  EXPECT_LT(RelativeError(actual.head.losses_S, expected.head.losses_S), 0.02);
  for (size_t u = 0; u < expected.gradients.size(); ++u) {
    for (size_t i = 0; i < expected.gradients[u].size(); ++i) {
      EXPECT_LT(RelativeError(actual.gradients[u][i], expected.gradients[u][i]), 0.08);
    }
  }
}

}  // namespace
}  // namespace anneal::trainer
