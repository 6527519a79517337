#include "worker/trainer/kernels/cpu_attention.h"

#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>

#include <limits>
#include <optional>

namespace anneal::trainer {
namespace {

// Tokens begin..end of [T, H, ...] as [1, H, n, ...], which is what ATen's operator wants; a view.
at::Tensor RowView(const at::Tensor& x_TH, int64_t begin, int64_t end) {
  return x_TH.narrow(0, begin, end - begin).transpose(0, 1).unsqueeze(0);
}

// [1, 1, n, n]: 0 where position i sees j in (i - window, i], -inf elsewhere; nothing where plain
// causality says the same.
std::optional<at::Tensor> WindowMask(int64_t n, int64_t window, at::TensorOptions options) {
  if (window <= 0 || n <= window) return std::nullopt;
  const at::Tensor hidden = at::full({n, n}, -std::numeric_limits<double>::infinity(), options);
  return hidden.triu(1).add_(hidden.tril(-window)).view({1, 1, n, n});
}

}  // namespace

AttentionResult CpuAttentionForward(const at::Tensor& q_THC, const at::Tensor& k_TKC,
                                    const at::Tensor& v_TKC, const PackedRows& rows, double scale,
                                    int64_t window) {
  AttentionResult result;
  result.out_THC = at::empty_like(q_THC);
  const at::ScalarType statistics = q_THC.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  result.log_sum_exp = at::empty({q_THC.size(0), q_THC.size(1)}, q_THC.options().dtype(statistics));
  for (size_t row = 0; row + 1 < rows.starts.size(); ++row) {
    const int64_t begin = rows.starts[row], end = rows.starts[row + 1];
    const std::optional<at::Tensor> mask = WindowMask(end - begin, window, q_THC.options());
    const auto [out, log_sum_exp] = at::_scaled_dot_product_flash_attention_for_cpu(
        RowView(q_THC, begin, end), RowView(k_TKC, begin, end), RowView(v_TKC, begin, end),
        /*dropout_p=*/0,
        /*is_causal=*/!mask.has_value(), mask, scale);
    RowView(result.out_THC, begin, end).copy_(out);
    RowView(result.log_sum_exp, begin, end).copy_(log_sum_exp);
  }
  return result;
}

AttentionGradients CpuAttentionBackward(const at::Tensor& dout_THC, const at::Tensor& q_THC,
                                        const at::Tensor& k_TKC, const at::Tensor& v_TKC,
                                        const AttentionResult& forward, const PackedRows& rows,
                                        double scale, int64_t window) {
  AttentionGradients gradients = {at::empty_like(q_THC), at::empty_like(k_TKC),
                                  at::empty_like(v_TKC)};
  for (size_t row = 0; row + 1 < rows.starts.size(); ++row) {
    const int64_t begin = rows.starts[row], end = rows.starts[row + 1];
    const std::optional<at::Tensor> mask = WindowMask(end - begin, window, q_THC.options());
    const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        RowView(dout_THC, begin, end), RowView(q_THC, begin, end), RowView(k_TKC, begin, end),
        RowView(v_TKC, begin, end), RowView(forward.out_THC, begin, end),
        RowView(forward.log_sum_exp, begin, end), /*dropout_p=*/0,
        /*is_causal=*/!mask.has_value(), mask, scale);
    RowView(gradients.dq_THC, begin, end).copy_(dq);
    RowView(gradients.dk_TKC, begin, end).copy_(dk);
    RowView(gradients.dv_TKC, begin, end).copy_(dv);
  }
  return gradients;
}

}  // namespace anneal::trainer
