#pragma once
// The arithmetic that is neither a matrix multiply nor an element-wise ATen operator: one
// interface, a CPU and a CUDA implementation, one reference each (autograd in float64, in the
// tests).
//
// Shape letters: T tokens, D model width, F feed-forward width, H query heads, K key/value heads, C
// head width, V vocabulary, S supervised positions. Tensors are contiguous, on the implementation's
// device, of compute type (float, double for tests, bfloat16) unless said otherwise. Outputs are
// new tensors unless said otherwise. Not thread-safe: one caller per process. Every result has the
// same bits for any number of threads.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "worker/trainer/kernels/philox.h"

namespace anneal::trainer {

// Where the rows of a packed micro-batch begin; attention never crosses them.
struct PackedRows {
  std::vector<int32_t> starts;  // [R + 1]
  at::Tensor starts_device;     // int32 [R + 1] on the compute device
  int32_t longest = 0;
};

// Which token of which data row each token of a cell is: what keyed random numbers are drawn for.
struct TokenPlaces {
  at::Tensor source_row_T, position_T;  // int64 on the compute device
};

struct RmsNormResult {
  at::Tensor y_TD;
  at::Tensor inverse_rms_T;  // fp32 (fp64 for double input), saved for backward
};
struct RmsNormGradients {
  at::Tensor dx_TD;
  at::Tensor dweight_D;  // undefined if not asked for
};
struct AttentionResult {
  at::Tensor out_THC;
  at::Tensor log_sum_exp;  // implementation's own layout, saved for backward
};
struct AttentionGradients {
  at::Tensor dq_THC, dk_TKC, dv_TKC;
};
struct SwigluGradients {
  at::Tensor dgate_TF, dup_TF;
};
struct CrossEntropyResult {
  at::Tensor losses_S;   // fp32 (fp64 for double): -log softmax(logits)[target], nats
  at::Tensor correct_S;  // bool: the target is the first of the largest logits
};

class Kernels {
 public:
  virtual ~Kernels() = default;

  // y = x / sqrt(mean(x^2) + eps) * weight, statistics in fp32 (arXiv:1910.07467; LlamaRMSNorm).
  // The last dimension may also be C (q/k norm), with any leading dimensions.
  virtual RmsNormResult RmsNormForward(const at::Tensor& x_TD, const at::Tensor& weight_D,
                                       double epsilon) = 0;
  virtual RmsNormGradients RmsNormBackward(const at::Tensor& dy_TD, const at::Tensor& x_TD,
                                           const at::Tensor& weight_D,
                                           const at::Tensor& inverse_rms_T,
                                           bool need_weight_gradient) = 0;

  // Rotates pairs (i, i + C/2) of each head by the position's angle, in place (arXiv:2104.09864,
  // Hugging Face's "half" layout). cos/sin: fp32 [T, C/2]. `inverse` turns back: that is the
  // backward.
  virtual void RotaryInPlace(at::Tensor& x_THC, const at::Tensor& cos_TC, const at::Tensor& sin_TC,
                             bool inverse) = 0;

  // silu(gate) * up (arXiv:2002.05202).
  virtual at::Tensor SwigluForward(const at::Tensor& gate_TF, const at::Tensor& up_TF) = 0;
  virtual SwigluGradients SwigluBackward(const at::Tensor& dh_TF, const at::Tensor& gate_TF,
                                         const at::Tensor& up_TF) = 0;

  // Causal attention within each row; query head h reads key head h / (H / K). window > 0: position
  // p sees (p - window, p].
  virtual AttentionResult AttentionForward(const at::Tensor& q_THC, const at::Tensor& k_TKC,
                                           const at::Tensor& v_TKC, const PackedRows& rows,
                                           double scale, int64_t window) = 0;
  virtual AttentionGradients AttentionBackward(const at::Tensor& dout_THC, const at::Tensor& q_THC,
                                               const at::Tensor& k_TKC, const at::Tensor& v_TKC,
                                               const AttentionResult& forward,
                                               const PackedRows& rows, double scale,
                                               int64_t window) = 0;

  virtual CrossEntropyResult CrossEntropyForward(const at::Tensor& logits_SV,
                                                 const at::Tensor& targets_S) = 0;
  // Turns logits into d(scale * sum of losses)/d(logits), in place.
  virtual void CrossEntropyBackwardInPlace(at::Tensor& logits_SV, const at::Tensor& targets_S,
                                           double scale) = 0;

  // Inverted dropout: element f of token t becomes x / (1 - rate) where DropoutKeeps (philox.h)
  // says so, else 0. The same call on a gradient is the backward.
  virtual at::Tensor Dropout(const at::Tensor& x_TD, PhiloxKey key, double rate,
                             const TokenPlaces& places) = 0;

  // The sum over all rows of the last dimension, fp32 (fp64 for double): the gradient of a bias.
  virtual at::Tensor SumRows(const at::Tensor& x_TF) = 0;

  // Sum of squares of fp32 elements in double, chunk by chunk: element i of the result covers
  // [i * chunk, (i + 1) * chunk). For the gradient norm; independent of threads. Result: double on
  // the CPU.
  virtual std::vector<double> ChunkSquareSums(const at::Tensor& flat_N, int64_t chunk) = 0;
};

// The CPU implementation. Supports float, double and bfloat16.
std::unique_ptr<Kernels> MakeCpuKernels();

}  // namespace anneal::trainer
