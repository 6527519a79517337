#pragma once
// Attention on the CPU: ATen's flash attention, one call per packed row, so that no arithmetic
// spans two rows.

#include "worker/trainer/kernels/kernels.h"

namespace anneal::trainer {

AttentionResult CpuAttentionForward(const at::Tensor& q_THC, const at::Tensor& k_TKC,
                                    const at::Tensor& v_TKC, const PackedRows& rows, double scale,
                                    int64_t window);
AttentionGradients CpuAttentionBackward(const at::Tensor& dout_THC, const at::Tensor& q_THC,
                                        const at::Tensor& k_TKC, const at::Tensor& v_TKC,
                                        const AttentionResult& forward, const PackedRows& rows,
                                        double scale, int64_t window);

}  // namespace anneal::trainer
