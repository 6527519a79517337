// Row attention against autograd through a plain formula, in float64 on the CPU.

#include "worker/trainer/cuda/row_attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <limits>

namespace anneal::trainer::cuda {
namespace {

constexpr int64_t kTokens = 12, kQueryHeads = 6, kKeyHeads = 2, kWidth = 5;
constexpr double kScale = 0.4;

at::Tensor RandomLeaf(int64_t heads) {
  return at::randn({kTokens, heads, kWidth}, at::kDouble).set_requires_grad(true);
}

// softmax(q k^T * scale) v, row by row, from whole masks.
at::Tensor Reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const PackedRows& rows, int64_t window) {
  std::vector<at::Tensor> outs;
  for (size_t row = 0; row + 1 < rows.starts.size(); ++row) {
    const int64_t begin = rows.starts[row], n = rows.starts[row + 1] - begin;
    const auto heads = [&](const at::Tensor& x) {
      return x.narrow(0, begin, n).transpose(0, 1).repeat_interleave(kQueryHeads / x.size(1), 0);
    };
    const at::Tensor all = at::ones({n, n}, at::kBool);
    const at::Tensor hidden = window > 0 ? all.triu(1).logical_or(all.tril(-window)) : all.triu(1);
    const at::Tensor scores = (at::matmul(heads(q), heads(k).transpose(1, 2)) * kScale)
                                  .masked_fill(hidden, -std::numeric_limits<double>::infinity());
    outs.push_back(at::matmul(at::softmax(scores, 2), heads(v)).transpose(0, 1));
  }
  return at::cat(outs, 0);
}

// Largest difference over the largest element expected.
double Difference(const at::Tensor& actual, const at::Tensor& expected) {
  return ((actual - expected).abs().max() / expected.abs().max()).item<double>();
}

void ExpectMatchesReference(int64_t window) {
  PackedRows rows;
  rows.starts = {0, 5, 6, 12};
  rows.longest = 6;
  const at::Tensor q = RandomLeaf(kQueryHeads), k = RandomLeaf(kKeyHeads),
                   v = RandomLeaf(kKeyHeads);
  const at::Tensor dout = at::randn({kTokens, kQueryHeads, kWidth}, at::kDouble);
  const at::Tensor expected = Reference(q, k, v, rows, window);
  const std::vector<at::Tensor> gradients = torch::autograd::grad({expected}, {q, k, v}, {dout});

  const at::Tensor q0 = q.detach(), k0 = k.detach(), v0 = v.detach();
  const AttentionResult forward = RowAttentionForward(q0, k0, v0, rows, kScale, window);
  const AttentionGradients backward =
      RowAttentionBackward(dout, q0, k0, v0, forward, rows, kScale, window);
  // Float64 over sums of at most a dozen terms.
  EXPECT_LT(Difference(forward.out_THC, expected.detach()), 1e-13);
  EXPECT_LT(Difference(backward.dq_THC, gradients[0]), 1e-13);
  EXPECT_LT(Difference(backward.dk_TKC, gradients[1]), 1e-13);
  EXPECT_LT(Difference(backward.dv_TKC, gradients[2]), 1e-13);
}

TEST(RowAttentionTest, MatchesAutograd) { ExpectMatchesReference(0); }

TEST(RowAttentionTest, SlidingWindowMatchesAutograd) { ExpectMatchesReference(3); }

TEST(RowAttentionTest, BfloatIsComputedInFloat) {
  PackedRows rows;
  rows.starts = {0, kTokens};
  rows.longest = kTokens;
  const at::Tensor q = at::randn({kTokens, 2, kWidth}).to(at::kBFloat16);
  const AttentionResult narrow = RowAttentionForward(q, q, q, rows, kScale, 0);
  const AttentionResult wide =
      RowAttentionForward(q.to(at::kFloat), q.to(at::kFloat), q.to(at::kFloat), rows, kScale, 0);
  EXPECT_EQ(narrow.log_sum_exp.scalar_type(), at::kFloat);
  EXPECT_TRUE(narrow.out_THC.equal(wide.out_THC.to(at::kBFloat16)));
}

}  // namespace
}  // namespace anneal::trainer::cuda
