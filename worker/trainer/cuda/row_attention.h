#pragma once
// Causal attention row by row with plain ATen operators: for what the packed flash kernels do not
// take (float, double, odd head widths). It keeps a row's whole score matrix in memory, one key
// head at a time. Runs on any device, so it is tested on the CPU; one order of additions wherever
// ATen's matrix multiply has one.
//
// Shapes as in kernels.h, and: n tokens of one row, G = H / K query heads to a key head.

#include "worker/trainer/kernels/kernels.h"

namespace anneal::trainer::cuda {

// log_sum_exp: [T, H], fp32 (fp64 for double).
AttentionResult RowAttentionForward(const at::Tensor& q_THC, const at::Tensor& k_TKC,
                                    const at::Tensor& v_TKC, const PackedRows& rows, double scale,
                                    int64_t window);
AttentionGradients RowAttentionBackward(const at::Tensor& dout_THC, const at::Tensor& q_THC,
                                        const at::Tensor& k_TKC, const at::Tensor& v_TKC,
                                        const AttentionResult& forward, const PackedRows& rows,
                                        double scale, int64_t window);

}  // namespace anneal::trainer::cuda
