// Every CPU kernel against ATen's operators and autograd in float64, and its bits for 1 to 4
// threads.

#include "worker/trainer/kernels/kernels.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <limits>

namespace anneal::trainer {
namespace {

constexpr auto kDoubleOptions = at::kDouble;

class KernelsTest : public ::testing::Test {
 protected:
  KernelsTest() : kernels_(MakeCpuKernels()) { at::manual_seed(7); }

  static at::Tensor Random(at::IntArrayRef shape) { return at::randn(shape, kDoubleOptions); }
  static at::Tensor Leaf(const at::Tensor& x) { return x.clone().set_requires_grad(true); }

  const std::unique_ptr<Kernels> kernels_;
};

// Largest difference relative to the largest expected element.
double Difference(const at::Tensor& actual, const at::Tensor& expected) {
  const at::Tensor wanted = expected.detach().to(at::kDouble);
  return ((actual.to(at::kDouble) - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
      .item<double>();
}

std::vector<at::Tensor> Gradients(const at::Tensor& y, const at::Tensor& dy,
                                  std::vector<at::Tensor> leaves) {
  return torch::autograd::grad({y}, leaves, {dy});
}

PackedRows MakeRows(std::vector<int32_t> starts) {
  PackedRows rows;
  rows.starts = std::move(starts);
  for (size_t i = 1; i < rows.starts.size(); ++i)
    rows.longest = std::max(rows.longest, rows.starts[i] - rows.starts[i - 1]);
  return rows;
}

TEST_F(KernelsTest, RmsNormMatchesAutograd) {
  const at::Tensor x = Leaf(Random({133, 75})), w = Leaf(Random({75})), dy = Random({133, 75});
  const at::Tensor y = x * at::rsqrt(x.pow(2).mean(-1, true) + 1e-5) * w;
  const std::vector<at::Tensor> expected = Gradients(y, dy, {x, w});
  for (const auto& [type, tolerance] :
       {std::pair(at::kDouble, 1e-12), {at::kFloat, 1e-5}, {at::kBFloat16, 2e-2}}) {
    const auto cast = [type = type](const at::Tensor& t) { return t.detach().to(type); };
    const RmsNormResult forward = kernels_->RmsNormForward(cast(x), cast(w), 1e-5);
    EXPECT_LT(Difference(forward.y_TD, y), tolerance);
    const RmsNormGradients gradients =
        kernels_->RmsNormBackward(cast(dy), cast(x), cast(w), forward.inverse_rms_T, true);
    EXPECT_LT(Difference(gradients.dx_TD, expected[0]), tolerance);
    EXPECT_LT(Difference(gradients.dweight_D, expected[1]), tolerance);
    EXPECT_FALSE(kernels_->RmsNormBackward(cast(dy), cast(x), cast(w), forward.inverse_rms_T, false)
                     .dweight_D.defined());
  }
}

TEST_F(KernelsTest, RotaryTurnsHalvesAndBack) {
  const int64_t tokens = 9, heads = 3, width = 12;
  const at::Tensor angle = Random({tokens, width / 2}).to(at::kFloat);
  const at::Tensor cos = angle.cos(), sin = angle.sin();
  const at::Tensor x = Random({tokens, heads, width});
  at::Tensor turned = x.clone();
  kernels_->RotaryInPlace(turned, cos, sin, false);
  // Hugging Face: x * cos + rotate_half(x) * sin, with cos and sin repeated over both halves.
  const at::Tensor c = at::cat({cos, cos}, 1).unsqueeze(1).to(at::kDouble),
                   s = at::cat({sin, sin}, 1).unsqueeze(1).to(at::kDouble);
  const at::Tensor rotated =
      at::cat({-x.narrow(2, width / 2, width / 2), x.narrow(2, 0, width / 2)}, 2);
  EXPECT_LT(Difference(turned, x * c + rotated * s), 1e-14);
  kernels_->RotaryInPlace(turned, cos, sin, true);
  EXPECT_LT(Difference(turned, x), 1e-6);  // cos^2 + sin^2 is 1 only to float's rounding

  at::Tensor narrow = x.to(at::kFloat);
  kernels_->RotaryInPlace(narrow, cos, sin, false);
  EXPECT_LT(Difference(narrow, x * c + rotated * s), 1e-6);
}

TEST_F(KernelsTest, SwigluMatchesAutograd) {
  const at::Tensor gate = Leaf(Random({40, 77}) * 4), up = Leaf(Random({40, 77})),
                   dh = Random({40, 77});
  const at::Tensor h = at::silu(gate) * up;
  const std::vector<at::Tensor> expected = Gradients(h, dh, {gate, up});
  for (const auto& [type, tolerance] :
       {std::pair(at::kDouble, 1e-13), {at::kFloat, 1e-6}, {at::kBFloat16, 2e-2}}) {
    const auto cast = [type = type](const at::Tensor& t) { return t.detach().to(type); };
    EXPECT_LT(Difference(kernels_->SwigluForward(cast(gate), cast(up)), h), tolerance);
    const SwigluGradients gradients = kernels_->SwigluBackward(cast(dh), cast(gate), cast(up));
    EXPECT_LT(Difference(gradients.dgate_TF, expected[0]), tolerance);
    EXPECT_LT(Difference(gradients.dup_TF, expected[1]), tolerance);
  }
}

TEST_F(KernelsTest, SwigluHoldsAtTheEnds) {
  const float infinity = std::numeric_limits<float>::infinity();
  const at::Tensor gate = at::tensor({-1000.0f, -90.0f, 0.0f, 90.0f, 1000.0f}).view({1, 5});
  const at::Tensor h = kernels_->SwigluForward(gate, at::ones({1, 5}));
  EXPECT_LT((h - at::silu(gate)).abs().max().item<float>(), 1e-30);
  const at::Tensor bad =
      at::tensor({std::numeric_limits<float>::quiet_NaN(), infinity}).view({1, 2});
  const at::Tensor out = kernels_->SwigluForward(bad, at::ones({1, 2}));
  EXPECT_TRUE(out[0][0].isnan().item<bool>());
  EXPECT_EQ(out[0][1].item<float>(), infinity);
}

// softmax(q k^T * scale) v per row with explicit masks, from plain operators.
at::Tensor ReferenceAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const PackedRows& rows, double scale, int64_t window) {
  std::vector<at::Tensor> outs;
  const int64_t group = q.size(1) / k.size(1);
  for (size_t r = 0; r + 1 < rows.starts.size(); ++r) {
    const int64_t begin = rows.starts[r], n = rows.starts[r + 1] - begin;
    const auto heads = [&](const at::Tensor& x, int64_t repeat) {
      return x.narrow(0, begin, n).transpose(0, 1).repeat_interleave(repeat, 0);
    };
    at::Tensor scores = at::matmul(heads(q, 1), heads(k, group).transpose(1, 2)) * scale;
    const at::Tensor all = at::ones({n, n}, at::kBool);
    at::Tensor hidden = all.triu(1);
    if (window > 0) hidden = hidden.logical_or(all.tril(-window));
    scores = scores.masked_fill(hidden, -std::numeric_limits<double>::infinity());
    outs.push_back(at::matmul(at::softmax(scores, -1), heads(v, group)).transpose(0, 1));
  }
  return at::cat(outs, 0);
}

TEST_F(KernelsTest, AttentionMatchesAutogradAndNeverCrossesRows) {
  const PackedRows rows = MakeRows({0, 5, 6, 45, 150});
  const at::Tensor q = Leaf(Random({150, 6, 8})), k = Leaf(Random({150, 2, 8})),
                   v = Leaf(Random({150, 2, 8}));
  const at::Tensor dout = Random({150, 6, 8});
  for (const int64_t window : {0, 7, 1000}) {
    const at::Tensor out = ReferenceAttention(q, k, v, rows, 0.3, window);
    const std::vector<at::Tensor> expected = Gradients(out, dout, {q, k, v});
    for (const auto& [type, tolerance] : {std::pair(at::kDouble, 1e-12), {at::kFloat, 1e-5}}) {
      const auto cast = [type = type](const at::Tensor& t) { return t.detach().to(type); };
      const AttentionResult forward =
          kernels_->AttentionForward(cast(q), cast(k), cast(v), rows, 0.3, window);
      EXPECT_LT(Difference(forward.out_THC, out), tolerance) << window;
      const AttentionGradients gradients = kernels_->AttentionBackward(
          cast(dout), cast(q), cast(k), cast(v), forward, rows, 0.3, window);
      EXPECT_LT(Difference(gradients.dq_THC, expected[0]), tolerance) << window;
      EXPECT_LT(Difference(gradients.dk_TKC, expected[1]), tolerance) << window;
      EXPECT_LT(Difference(gradients.dv_TKC, expected[2]), tolerance) << window;
    }
  }
}

TEST_F(KernelsTest, CrossEntropyMatchesAutograd) {
  const at::Tensor logits = Leaf(Random({31, 2500}) * 5),
                   targets = at::randint(2500, {31}, at::kLong);
  const at::Tensor losses = -at::log_softmax(logits, 1).gather(1, targets.unsqueeze(1)).squeeze(1);
  const std::vector<at::Tensor> expected =
      Gradients(losses.sum() * 0.37, at::ones({}, kDoubleOptions), {logits});
  for (const auto& [type, tolerance] :
       {std::pair(at::kDouble, 1e-12), {at::kFloat, 2e-6}, {at::kBFloat16, 2e-2}}) {
    at::Tensor x = logits.detach().to(type, /*non_blocking=*/false, /*copy=*/true);
    const CrossEntropyResult result = kernels_->CrossEntropyForward(x, targets);
    EXPECT_LT(Difference(result.losses_S, losses), tolerance);
    EXPECT_TRUE(result.correct_S.equal(x.argmax(1) == targets));
    kernels_->CrossEntropyBackwardInPlace(x, targets, 0.37);
    EXPECT_LT(Difference(x, expected[0]), tolerance);
  }
}

TEST_F(KernelsTest, OnlyTheFirstOfEqualLogitsIsCorrect) {
  const at::Tensor logits = at::tensor({1.0f, 3.0f, 3.0f, 0.0f}).repeat({3, 1});
  const CrossEntropyResult result =
      kernels_->CrossEntropyForward(logits, at::tensor({0, 1, 2}, at::kLong));
  EXPECT_TRUE(result.correct_S.equal(at::tensor({0, 1, 0}).to(at::kBool)));
}

TEST_F(KernelsTest, DropoutIsKeyedByMeaning) {
  const at::Tensor x = at::ones({2000, 6}, kDoubleOptions), rows = at::arange(2000),
                   zeros = at::zeros_like(rows);
  const PhiloxKey key = MakePhiloxKey(1, 2, "module");
  const at::Tensor out = kernels_->Dropout(x, key, 0.25, {rows, zeros});
  EXPECT_TRUE((out == 0).logical_or((out - 1 / 0.75).abs() < 1e-12).all().item<bool>());
  EXPECT_NEAR(out.mean().item<double>(), 1.0, 0.02);
  // The same tokens in another cell, in another order, draw the same numbers.
  const at::Tensor again = kernels_->Dropout(x.narrow(0, 0, 1000), key, 0.25,
                                             {rows.narrow(0, 1000, 1000).flip(0), zeros});
  EXPECT_TRUE(again.equal(out.narrow(0, 1000, 1000).flip(0)));
  EXPECT_FALSE(kernels_->Dropout(x, key, 0.25, {rows, zeros + 1}).equal(out));
  EXPECT_FALSE(kernels_->Dropout(x, MakePhiloxKey(1, 3, "module"), 0.25, {rows, zeros}).equal(out));
}

TEST_F(KernelsTest, SumRowsAddsEveryRowOnce) {
  const at::Tensor x = Random({7, 31, 50});
  const at::Tensor expected = x.reshape({-1, 50}).sum(0);
  for (const auto& [type, tolerance] :
       {std::pair(at::kDouble, 1e-12), {at::kFloat, 1e-5}, {at::kBFloat16, 2e-2}}) {
    EXPECT_LT(Difference(kernels_->SumRows(x.to(type)), expected), tolerance);
  }
  EXPECT_EQ(kernels_->SumRows(at::zeros({0, 3})).abs().max().item<float>(), 0);
}

TEST_F(KernelsTest, ChunkSquareSumsCoverEveryElementOnce) {
  const at::Tensor x = Random({1000}).to(at::kFloat);
  const std::vector<double> sums = kernels_->ChunkSquareSums(x, 300);
  ASSERT_EQ(sums.size(), 4u);
  const at::Tensor squares = x.to(at::kDouble).pow(2);
  for (int i = 0; i < 4; ++i) {
    const double expected =
        squares.narrow(0, 300 * i, std::min(300, 1000 - 300 * i)).sum().item<double>();
    EXPECT_NEAR(sums[i], expected, 1e-12 * expected);
  }
}

TEST_F(KernelsTest, BitsDoNotDependOnThreads) {
  const at::Tensor x = Random({517, 576}).to(at::kFloat), w = Random({576}).to(at::kFloat);
  const at::Tensor dy = Random({517, 576}).to(at::kFloat),
                   targets = at::randint(576, {517}, at::kLong);
  const at::Tensor q = Random({517, 6, 16}).to(at::kFloat), k = Random({517, 2, 16}).to(at::kFloat);
  const PackedRows rows = MakeRows({0, 100, 517});
  const auto compute = [&](int threads) {
    at::set_num_threads(threads);
    std::vector<at::Tensor> out;
    const RmsNormResult norm = kernels_->RmsNormForward(x, w, 1e-5);
    const RmsNormGradients norm_gradients =
        kernels_->RmsNormBackward(dy, x, w, norm.inverse_rms_T, true);
    const SwigluGradients gated = kernels_->SwigluBackward(dy, x, dy);
    const AttentionResult attention = kernels_->AttentionForward(q, k, k, rows, 0.25, 0);
    const AttentionGradients attention_gradients =
        kernels_->AttentionBackward(q, q, k, k, attention, rows, 0.25, 0);
    const CrossEntropyResult loss = kernels_->CrossEntropyForward(x, targets);
    at::Tensor dlogits = x.clone();
    kernels_->CrossEntropyBackwardInPlace(dlogits, targets, 0.1);
    return std::vector<at::Tensor>{norm.y_TD,
                                   norm_gradients.dx_TD,
                                   norm_gradients.dweight_D,
                                   kernels_->SumRows(dy),
                                   gated.dgate_TF,
                                   gated.dup_TF,
                                   kernels_->SwigluForward(x, dy),
                                   attention.out_THC,
                                   attention_gradients.dq_THC,
                                   attention_gradients.dk_TKC,
                                   attention_gradients.dv_TKC,
                                   loss.losses_S,
                                   dlogits,
                                   at::tensor(kernels_->ChunkSquareSums(x, 1000), kDoubleOptions)};
  };
  const std::vector<at::Tensor> one = compute(1);
  for (int threads = 2; threads <= 4; ++threads) {
    const std::vector<at::Tensor> many = compute(threads);
    for (size_t i = 0; i < one.size(); ++i)
      EXPECT_TRUE(one[i].equal(many[i])) << "result " << i << ", threads " << threads;
  }
  at::set_num_threads(1);
}

}  // namespace
}  // namespace anneal::trainer
