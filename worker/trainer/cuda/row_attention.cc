#include "worker/trainer/cuda/row_attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/sum.h>

#include <limits>

namespace anneal::trainer::cuda {
namespace {

// Scores and probabilities are computed in this type.
at::ScalarType WideType(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// One row's part of one key head (and its query heads) of a [T, heads, C] tensor, as [heads, n, C]
// in the wide type.
at::Tensor Part(const at::Tensor& tensor, int64_t begin, int64_t length, int64_t first_head,
                int64_t heads) {
  return tensor.narrow(0, begin, length)
      .narrow(1, first_head, heads)
      .transpose(0, 1)
      .to(WideType(tensor));
}

// [n, n]: true where position i (row) must not see position j (column).
at::Tensor Hidden(int64_t length, int64_t window, at::Device device) {
  const at::Tensor position = at::arange(length, at::TensorOptions(device).dtype(at::kLong));
  const at::Tensor distance = position.unsqueeze(1) - position.unsqueeze(0);
  const at::Tensor future = distance.lt(0);
  return window > 0 ? future.logical_or(distance.ge(window)) : future;
}

// [G, n, n], hidden positions at -infinity.
at::Tensor Scores(const at::Tensor& q_GnC, const at::Tensor& k_GnC, double scale,
                  const at::Tensor& hidden) {
  return at::bmm(q_GnC, k_GnC.transpose(1, 2))
      .mul_(scale)
      .masked_fill_(hidden, -std::numeric_limits<double>::infinity());
}

template <typename Body>  // body(begin, length, key_head, hidden)
void ForEachRowAndKeyHead(const PackedRows& rows, int64_t key_heads, int64_t window,
                          at::Device device, Body body) {
  for (size_t row = 0; row + 1 < rows.starts.size(); ++row) {
    const int64_t begin = rows.starts[row], length = rows.starts[row + 1] - begin;
    if (length == 0) continue;
    const at::Tensor hidden = Hidden(length, window, device);
    for (int64_t head = 0; head < key_heads; ++head) body(begin, length, head, hidden);
  }
}

}  // namespace

AttentionResult RowAttentionForward(const at::Tensor& q_THC, const at::Tensor& k_TKC,
                                    const at::Tensor& v_TKC, const PackedRows& rows, double scale,
                                    int64_t window) {
  const int64_t key_heads = k_TKC.size(1), group = q_THC.size(1) / key_heads;
  AttentionResult result;
  result.out_THC = at::empty_like(q_THC);
  result.log_sum_exp =
      at::empty({q_THC.size(0), q_THC.size(1)}, q_THC.options().dtype(WideType(q_THC)));
  ForEachRowAndKeyHead(
      rows, key_heads, window, q_THC.device(),
      [&](int64_t begin, int64_t length, int64_t head, const at::Tensor& hidden) {
        const at::Tensor q_GnC = Part(q_THC, begin, length, head * group, group);
        const at::Tensor k_GnC = Part(k_TKC, begin, length, head, 1).expand({group, -1, -1});
        const at::Tensor v_GnC = Part(v_TKC, begin, length, head, 1).expand({group, -1, -1});
        const at::Tensor scores = Scores(q_GnC, k_GnC, scale, hidden);
        const at::Tensor log_sum_exp_Gn = at::logsumexp(scores, 2);
        const at::Tensor probabilities = at::exp(scores - log_sum_exp_Gn.unsqueeze(2));
        result.log_sum_exp.narrow(0, begin, length)
            .narrow(1, head * group, group)
            .copy_(log_sum_exp_Gn.t());
        result.out_THC.narrow(0, begin, length)
            .narrow(1, head * group, group)
            .copy_(at::bmm(probabilities, v_GnC).transpose(0, 1));
      });
  return result;
}

// With P = exp(scores - log_sum_exp), D = sum over C of dout * out (arXiv:2205.14135, section 3.1
// and appendix B):
//   dv = P^T dout,  dscores = P * (dout v^T - D),  dq = scale * dscores k,  dk = scale * dscores^T
//   q,
// where dk and dv add up over the query heads of a key head.
AttentionGradients RowAttentionBackward(const at::Tensor& dout_THC, const at::Tensor& q_THC,
                                        const at::Tensor& k_TKC, const at::Tensor& v_TKC,
                                        const AttentionResult& forward, const PackedRows& rows,
                                        double scale, int64_t window) {
  const int64_t key_heads = k_TKC.size(1), group = q_THC.size(1) / key_heads;
  AttentionGradients result{at::empty_like(q_THC), at::empty_like(k_TKC), at::empty_like(v_TKC)};
  ForEachRowAndKeyHead(
      rows, key_heads, window, q_THC.device(),
      [&](int64_t begin, int64_t length, int64_t head, const at::Tensor& hidden) {
        const at::Tensor q_GnC = Part(q_THC, begin, length, head * group, group);
        const at::Tensor k_GnC = Part(k_TKC, begin, length, head, 1).expand({group, -1, -1});
        const at::Tensor v_GnC = Part(v_TKC, begin, length, head, 1).expand({group, -1, -1});
        const at::Tensor dout_GnC = Part(dout_THC, begin, length, head * group, group);
        const at::Tensor out_GnC = Part(forward.out_THC, begin, length, head * group, group);
        const at::Tensor log_sum_exp_Gn1 =
            Part(forward.log_sum_exp.unsqueeze(2), begin, length, head * group, group);

        const at::Tensor probabilities =
            at::exp(Scores(q_GnC, k_GnC, scale, hidden) - log_sum_exp_Gn1);
        const at::Tensor pull_Gn1 = at::sum(dout_GnC * out_GnC, 2, /*keepdim=*/true);
        const at::Tensor dscores =
            (at::bmm(dout_GnC, v_GnC.transpose(1, 2)) - pull_Gn1).mul_(probabilities).mul_(scale);

        const auto write = [&](at::Tensor& to, int64_t first_head, const at::Tensor& gradient_hnC) {
          to.narrow(0, begin, length)
              .narrow(1, first_head, gradient_hnC.size(0))
              .copy_(gradient_hnC.transpose(0, 1));
        };
        write(result.dq_THC, head * group, at::bmm(dscores, k_GnC));
        write(result.dk_TKC, head,
              at::sum(at::bmm(dscores.transpose(1, 2), q_GnC), 0, /*keepdim=*/true));
        write(result.dv_TKC, head,
              at::sum(at::bmm(probabilities.transpose(1, 2), dout_GnC), 0, /*keepdim=*/true));
      });
  return result;
}

}  // namespace anneal::trainer::cuda
