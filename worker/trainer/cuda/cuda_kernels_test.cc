// Every CUDA kernel against the CPU's in float64, on the inputs as the device's type rounds them.
//
// Each case runs three ways: as it is, again (same bits: no order of additions may vary), and from
// addresses that are not multiples of 16 bytes (same bits: wide loads must not change the order).
// New tensors are filled with NaN first, so an element that a kernel leaves unwritten shows.

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "worker/trainer/cuda/testing/cuda_library.h"

namespace anneal::trainer::cuda {
namespace {

using testing::TheAccelerator;

// Relative to the largest element expected. Float: sums of some thousand terms; expf and rsqrt are
// within 2 units in the last place. Bfloat16: 8 bits, the result rounded once or twice.
double ToleranceOf(at::ScalarType type) {
  return type == at::kDouble ? 1e-12 : type == at::kFloat ? 1e-5 : 1.2e-2;
}

class CudaKernelsTest : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  CudaKernelsTest() : cpu_(MakeCpuKernels()) {
    at::manual_seed(7);
    at::globalContext().setDeterministicFillUninitializedMemory(true);
  }

  static Kernels& Cuda() { return TheAccelerator().kernels(); }

  // Normal numbers as the tested type rounds them, in float64 on the CPU.
  static at::Tensor Random(at::IntArrayRef shape) {
    return at::randn(shape, at::kDouble).to(GetParam()).to(at::kDouble);
  }

  // The same numbers on the device, in the tested type. `shifted`: one element beyond a multiple
  // of 16 bytes.
  static at::Tensor OnDevice(const at::Tensor& x, bool shifted = false) {
    const at::Tensor moved = x.to(TheAccelerator().device(), GetParam());
    if (!shifted) return moved;
    const at::Tensor room = at::empty({moved.numel() + 1}, moved.options());
    const at::Tensor view = room.narrow(0, 1, moved.numel()).view(moved.sizes());
    view.copy_(moved);
    return view;
  }

  static at::Tensor Device(const at::Tensor& x) { return x.to(TheAccelerator().device()); }

  static void ExpectClose(const at::Tensor& actual, const at::Tensor& expected, const char* what) {
    ASSERT_EQ(actual.numel(), expected.numel()) << what;
    const at::Tensor difference =
        (actual.cpu().to(at::kDouble).view({-1}) - expected.to(at::kDouble).view({-1})).abs();
    const double scale = std::max(expected.abs().max().item<double>(), 1e-30);
    // Written so that NaN fails.
    EXPECT_TRUE(difference.max().item<double>() <= ToleranceOf(GetParam()) * scale)
        << what << ": differs by " << difference.max().item<double>() << " of " << scale;
  }

  // Runs `compute(shifted)`, which gives the device's results, as the file's head says.
  template <typename Compute>
  static std::vector<at::Tensor> RunThreeWays(Compute compute) {
    const std::vector<at::Tensor> first = compute(false), again = compute(false),
                                  shifted = compute(true);
    for (size_t i = 0; i < first.size(); ++i) {
      EXPECT_TRUE(first[i].equal(again[i])) << "result " << i << " changes from run to run";
      EXPECT_TRUE(first[i].equal(shifted[i])) << "result " << i << " depends on alignment";
    }
    return first;
  }

  const std::unique_ptr<Kernels> cpu_;
};

TEST_P(CudaKernelsTest, RmsNorm) {
  for (const auto& [rows, width] :
       {std::pair(1, 8), {133, 75}, {700, 64}, {257, 576}, {40, 1025}, {65, 4096}, {40000, 128}}) {
    SCOPED_TRACE(::testing::Message() << rows << " rows of " << width);
    const at::Tensor x = Random({rows, width}), dy = Random({rows, width}), w = Random({width});
    const RmsNormResult forward = cpu_->RmsNormForward(x, w, 1e-5);
    const RmsNormGradients backward = cpu_->RmsNormBackward(dy, x, w, forward.inverse_rms_T, true);
    const auto actual = RunThreeWays([&](bool shifted) -> std::vector<at::Tensor> {
      const at::Tensor x_d = OnDevice(x, shifted), w_d = OnDevice(w, shifted);
      const RmsNormResult y = Cuda().RmsNormForward(x_d, w_d, 1e-5);
      const RmsNormGradients g =
          Cuda().RmsNormBackward(OnDevice(dy, shifted), x_d, w_d, y.inverse_rms_T, true);
      return {y.y_TD, y.inverse_rms_T, g.dx_TD, g.dweight_D};
    });
    ExpectClose(actual[0], forward.y_TD, "y");
    ExpectClose(actual[1], forward.inverse_rms_T, "inverse_rms");
    ExpectClose(actual[2], backward.dx_TD, "dx");
    ExpectClose(actual[3], backward.dweight_D, "dweight");
  }
}

TEST_P(CudaKernelsTest, Rotary) {
  for (const auto& [tokens, heads, width] :
       {std::tuple(9, 3, 12), {200, 9, 64}, {33, 2, 10}, {64, 8, 128}}) {
    const at::Tensor angle = at::randn({tokens, width / 2}, at::kFloat);
    const at::Tensor cos = angle.cos(), sin = angle.sin(), x = Random({tokens, heads, width});
    at::Tensor expected = x.clone(), back = x.clone();
    cpu_->RotaryInPlace(expected, cos, sin, false);
    cpu_->RotaryInPlace(back, cos, sin, true);
    const auto actual = RunThreeWays([&](bool shifted) -> std::vector<at::Tensor> {
      at::Tensor turned = OnDevice(x, shifted), turned_back = OnDevice(x, shifted);
      Cuda().RotaryInPlace(turned, Device(cos), Device(sin), false);
      Cuda().RotaryInPlace(turned_back, Device(cos), Device(sin), true);
      return {turned, turned_back};
    });
    ExpectClose(actual[0], expected, "turned");
    ExpectClose(actual[1], back, "turned back");
  }
}

TEST_P(CudaKernelsTest, Swiglu) {
  for (const auto& [rows, width] : {std::pair(1, 3), {40, 77}, {300, 1536}}) {
    const at::Tensor gate = Random({rows, width}) * 4, up = Random({rows, width}),
                     dh = Random({rows, width});
    const SwigluGradients gradients = cpu_->SwigluBackward(dh, gate, up);
    const auto actual = RunThreeWays([&](bool shifted) -> std::vector<at::Tensor> {
      const at::Tensor g = OnDevice(gate, shifted), u = OnDevice(up, shifted);
      const SwigluGradients d = Cuda().SwigluBackward(OnDevice(dh, shifted), g, u);
      return {Cuda().SwigluForward(g, u), d.dgate_TF, d.dup_TF};
    });
    ExpectClose(actual[0], cpu_->SwigluForward(gate, up), "h");
    ExpectClose(actual[1], gradients.dgate_TF, "dgate");
    ExpectClose(actual[2], gradients.dup_TF, "dup");
  }
}

TEST_P(CudaKernelsTest, CrossEntropy) {
  for (const auto& [rows, vocabulary] : {std::pair(1, 2), {37, 1001}, {64, 49152}, {9, 151936}}) {
    const at::Tensor logits = Random({rows, vocabulary}) * 3;
    const at::Tensor targets = at::randint(vocabulary, {rows}, at::kLong);
    // Let some rows be right: their target gets the largest logit.
    for (int64_t row = 0; row < rows; row += 3) logits[row][targets[row].item<int64_t>()] = 30;
    const CrossEntropyResult expected = cpu_->CrossEntropyForward(logits, targets);
    at::Tensor gradient = logits.clone();
    cpu_->CrossEntropyBackwardInPlace(gradient, targets, 0.125);
    at::Tensor correct;
    const auto actual = RunThreeWays([&](bool shifted) -> std::vector<at::Tensor> {
      at::Tensor l = OnDevice(logits, shifted);
      const CrossEntropyResult forward = Cuda().CrossEntropyForward(l, Device(targets));
      correct = forward.correct_S;
      Cuda().CrossEntropyBackwardInPlace(l, Device(targets), 0.125);
      return {forward.losses_S, l};
    });
    ExpectClose(actual[0], expected.losses_S, "losses");
    ExpectClose(actual[1], gradient, "gradient");
    EXPECT_TRUE(correct.cpu().equal(expected.correct_S));
  }
}

TEST_P(CudaKernelsTest, CrossEntropyTakesTheFirstOfEqualLogits) {
  const at::Tensor logits =
      OnDevice(at::tensor({1.0, 5.0, 0.0, 5.0, 5.0, 1.0, 5.0, 0.0}).view({2, 4}));
  const at::Tensor correct =
      Cuda().CrossEntropyForward(logits, Device(at::tensor({3, 0}, at::kLong))).correct_S.cpu();
  EXPECT_FALSE(correct[0].item<bool>());
  EXPECT_TRUE(correct[1].item<bool>());
}

TEST_P(CudaKernelsTest, AnImpossibleTargetOrLogitGivesNan) {
  at::Tensor logits = OnDevice(Random({3, 10}));
  logits[2][4] = std::numeric_limits<double>::quiet_NaN();
  const at::Tensor losses =
      Cuda().CrossEntropyForward(logits, Device(at::tensor({-100, 10, 1}, at::kLong))).losses_S;
  EXPECT_TRUE(losses.isnan().all().item<bool>());
}

TEST_P(CudaKernelsTest, DropoutKeepsTheSameElementsAsTheCpu) {
  const int64_t rows = 50, width = 131;
  const at::Tensor x = Random({rows, width});
  const TokenPlaces places = {at::randint(1'000'000, {rows}, at::kLong),
                              at::randint(2048, {rows}, at::kLong)};
  const PhiloxKey key = MakePhiloxKey(1, 2, "test");
  const auto actual = RunThreeWays([&](bool shifted) -> std::vector<at::Tensor> {
    return {Cuda().Dropout(OnDevice(x, shifted), key, 0.3,
                           {Device(places.source_row_T), Device(places.position_T)})};
  });
  const at::Tensor expected = cpu_->Dropout(x, key, 0.3, places);
  EXPECT_TRUE(actual[0].cpu().eq(0).equal(expected.eq(0)));
  ExpectClose(actual[0], expected, "y");
}

TEST_P(CudaKernelsTest, Attention) {
  for (const auto& [query_heads, key_heads, width, window] :
       {std::tuple(9, 3, 64, 0), {4, 4, 32, 0}, {8, 2, 128, 0}, {4, 1, 64, 20}, {2, 2, 12, 5}}) {
    SCOPED_TRACE(::testing::Message() << query_heads << " and " << key_heads << " heads of "
                                      << width << ", window " << window);
    PackedRows rows;
    rows.starts = {0, 1, 70, 326, 329, 400};
    rows.longest = 256;
    PackedRows rows_d = rows;
    rows_d.starts_device = Device(at::tensor(rows.starts, at::kInt));
    const int64_t tokens = rows.starts.back();
    const at::Tensor q = Random({tokens, query_heads, width}),
                     k = Random({tokens, key_heads, width}), v = Random({tokens, key_heads, width}),
                     dout = Random({tokens, query_heads, width});
    const double scale = 1 / std::sqrt(width);
    const AttentionResult forward = cpu_->AttentionForward(q, k, v, rows, scale, window);
    const AttentionGradients backward =
        cpu_->AttentionBackward(dout, q, k, v, forward, rows, scale, window);
    const auto compute = [&]() -> std::vector<at::Tensor> {
      const at::Tensor q_d = OnDevice(q), k_d = OnDevice(k), v_d = OnDevice(v);
      const AttentionResult out = Cuda().AttentionForward(q_d, k_d, v_d, rows_d, scale, window);
      const AttentionGradients g =
          Cuda().AttentionBackward(OnDevice(dout), q_d, k_d, v_d, out, rows_d, scale, window);
      return {out.out_THC, g.dq_THC, g.dk_TKC, g.dv_TKC};
    };
    const std::vector<at::Tensor> actual = compute(), again = compute();
    for (size_t i = 0; i < actual.size(); ++i) EXPECT_TRUE(actual[i].equal(again[i])) << i;
    ExpectClose(actual[0], forward.out_THC, "out");
    ExpectClose(actual[1], backward.dq_THC, "dq");
    ExpectClose(actual[2], backward.dk_TKC, "dk");
    ExpectClose(actual[3], backward.dv_TKC, "dv");
  }
}

TEST_P(CudaKernelsTest, SumRowsMatchesTheCpus) {
  const at::Tensor x = Random({333, 7, 50});
  const at::Tensor sum = Cuda().SumRows(OnDevice(x));
  EXPECT_TRUE(sum.equal(Cuda().SumRows(OnDevice(x))));
  ExpectClose(sum, cpu_->SumRows(x), "sum");
}

INSTANTIATE_TEST_SUITE_P(Types, CudaKernelsTest,
                         ::testing::Values(at::kDouble, at::kFloat, at::kBFloat16),
                         [](const auto& info) { return std::string(c10::toString(info.param)); });

TEST(CudaSquareSumsTest, MatchTheCpus) {
  for (const int64_t count : {1, 16384, 100'001}) {
    const at::Tensor x = at::randn({count}, at::kFloat);
    const std::vector<double> expected = MakeCpuKernels()->ChunkSquareSums(x, 16384);
    const std::vector<double> actual =
        TheAccelerator().kernels().ChunkSquareSums(x.to(TheAccelerator().device()), 16384);
    ASSERT_EQ(actual.size(), expected.size());
    // Sums in double of squares that double holds exactly.
    for (size_t i = 0; i < actual.size(); ++i) EXPECT_NEAR(actual[i] / expected[i], 1, 1e-13);
  }
}

}  // namespace
}  // namespace anneal::trainer::cuda

int main(int argc, char** argv) {
  return anneal::trainer::cuda::testing::RunTestsOnGpu(argc, argv);
}
