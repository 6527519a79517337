#include "worker/trainer/cuda/cuda_kernels.h"

#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sum.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "worker/trainer/cuda/launch.h"
#include "worker/trainer/cuda/row_attention.h"

namespace anneal::trainer::cuda {
namespace {

Element ElementOf(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return Element::kFloat;
    case at::kDouble:
      return Element::kDouble;
    case at::kBFloat16:
      return Element::kBFloat16;
    default:
      TORCH_CHECK(false, "the CUDA kernels take float, double and bfloat16, not ",
                  tensor.scalar_type());
  }
}

at::TensorOptions AccumulateOptions(const at::Tensor& like) {
  return like.options().dtype(like.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
}

// The kernels take bare pointers, so what they assume of a tensor is checked here.
template <typename... Tensors>
void CheckDense(const at::Tensor& first, const Tensors&... others) {
  const auto check = [&](const at::Tensor& tensor) {
    TORCH_CHECK(tensor.is_cuda() && tensor.is_contiguous() && tensor.device() == first.device(),
                "the CUDA kernels take contiguous tensors of one CUDA device");
  };
  check(first);
  (check(others), ...);
}
template <typename... Tensors>
void CheckSameType(const at::Tensor& first, const Tensors&... others) {
  TORCH_CHECK(((others.scalar_type() == first.scalar_type()) && ...),
              "the CUDA kernels take tensors of one type");
}
template <typename... Tensors>
void CheckAlike(const at::Tensor& first, const Tensors&... others) {
  CheckDense(first, others...);
  CheckSameType(first, others...);
  TORCH_CHECK(((others.sizes() == first.sizes()) && ...),
              "the CUDA kernels take tensors of one shape");
}

cudaStream_t Stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

// What torch's packed flash attention accepts
// (ATen/native/transformers/cuda/flash_attn/flash_api.cpp).
bool FlashTakes(const at::Tensor& q_THC) {
  const int64_t width = q_THC.size(2);
  return q_THC.scalar_type() == at::kBFloat16 && width % 8 == 0 && width <= 256;
}

// Flash attention counts the keys to the left without the position itself.
std::optional<int64_t> KeysToTheLeft(int64_t window) {
  return window > 0 ? std::optional<int64_t>(window - 1) : std::nullopt;
}

class CudaKernels : public Kernels {
 public:
  RmsNormResult RmsNormForward(const at::Tensor& x_TD, const at::Tensor& weight_D,
                               double epsilon) override {
    CheckDense(x_TD, weight_D);
    CheckSameType(x_TD, weight_D);
    const int64_t width = x_TD.size(-1), rows = width == 0 ? 0 : x_TD.numel() / width;
    TORCH_CHECK(weight_D.numel() == width, "norm weight has ", weight_D.numel(),
                " elements, rows have ", width);
    RmsNormResult result;
    result.y_TD = at::empty_like(x_TD);
    result.inverse_rms_T = at::empty({rows}, AccumulateOptions(x_TD));
    C10_CUDA_CHECK(LaunchRmsNormForward(ElementOf(x_TD), x_TD.data_ptr(), weight_D.data_ptr(),
                                        epsilon, rows, width, result.y_TD.data_ptr(),
                                        result.inverse_rms_T.data_ptr(), Stream()));
    return result;
  }

  RmsNormGradients RmsNormBackward(const at::Tensor& dy_TD, const at::Tensor& x_TD,
                                   const at::Tensor& weight_D, const at::Tensor& inverse_rms_T,
                                   bool need_weight_gradient) override {
    CheckAlike(dy_TD, x_TD);
    CheckDense(x_TD, weight_D, inverse_rms_T);
    CheckSameType(x_TD, weight_D);
    const int64_t width = x_TD.size(-1), rows = width == 0 ? 0 : x_TD.numel() / width;
    TORCH_CHECK(weight_D.numel() == width && inverse_rms_T.numel() == rows &&
                    inverse_rms_T.dtype() == AccumulateOptions(x_TD).dtype(),
                "norm weight or saved statistics do not fit the rows");
    const Element type = ElementOf(x_TD);
    RmsNormGradients result;
    result.dx_TD = at::empty_like(x_TD);
    C10_CUDA_CHECK(LaunchRmsNormBackward(type, dy_TD.data_ptr(), x_TD.data_ptr(),
                                         weight_D.data_ptr(), inverse_rms_T.data_ptr(), rows, width,
                                         result.dx_TD.data_ptr(), Stream()));
    if (need_weight_gradient) {
      const at::Tensor partial =
          at::empty({RmsNormWeightGradientGroups(rows), width}, AccumulateOptions(x_TD));
      result.dweight_D = at::empty({width}, AccumulateOptions(x_TD));
      C10_CUDA_CHECK(LaunchRmsNormWeightGradient(
          type, dy_TD.data_ptr(), x_TD.data_ptr(), inverse_rms_T.data_ptr(), rows, width,
          partial.data_ptr(), result.dweight_D.data_ptr(), Stream()));
    }
    return result;
  }

  void RotaryInPlace(at::Tensor& x_THC, const at::Tensor& cos_TC, const at::Tensor& sin_TC,
                     bool inverse) override {
    CheckDense(x_THC, cos_TC, sin_TC);
    const int64_t tokens = x_THC.size(0), heads = x_THC.size(1), width = x_THC.size(2);
    TORCH_CHECK(width % 2 == 0 && cos_TC.scalar_type() == at::kFloat &&
                    sin_TC.scalar_type() == at::kFloat && cos_TC.numel() == tokens * width / 2 &&
                    sin_TC.numel() == cos_TC.numel(),
                "rotary angles do not fit the heads");
    C10_CUDA_CHECK(LaunchRotary(ElementOf(x_THC), x_THC.data_ptr(), cos_TC.const_data_ptr<float>(),
                                sin_TC.const_data_ptr<float>(), tokens, heads, width, inverse,
                                Stream()));
  }

  at::Tensor SwigluForward(const at::Tensor& gate_TF, const at::Tensor& up_TF) override {
    CheckAlike(gate_TF, up_TF);
    at::Tensor h_TF = at::empty_like(gate_TF);
    C10_CUDA_CHECK(LaunchSwigluForward(ElementOf(gate_TF), gate_TF.data_ptr(), up_TF.data_ptr(),
                                       gate_TF.numel(), h_TF.data_ptr(), Stream()));
    return h_TF;
  }

  SwigluGradients SwigluBackward(const at::Tensor& dh_TF, const at::Tensor& gate_TF,
                                 const at::Tensor& up_TF) override {
    CheckAlike(gate_TF, up_TF, dh_TF);
    SwigluGradients result{at::empty_like(gate_TF), at::empty_like(up_TF)};
    C10_CUDA_CHECK(LaunchSwigluBackward(
        ElementOf(gate_TF), dh_TF.data_ptr(), gate_TF.data_ptr(), up_TF.data_ptr(), gate_TF.numel(),
        result.dgate_TF.data_ptr(), result.dup_TF.data_ptr(), Stream()));
    return result;
  }

  AttentionResult AttentionForward(const at::Tensor& q_THC, const at::Tensor& k_TKC,
                                   const at::Tensor& v_TKC, const PackedRows& rows, double scale,
                                   int64_t window) override {
    if (!FlashTakes(q_THC)) return RowAttentionForward(q_THC, k_TKC, v_TKC, rows, scale, window);
    auto [out, log_sum_exp, random_state, unused, mask] =
        at::_flash_attention_forward(q_THC, k_TKC, v_TKC, rows.starts_device, rows.starts_device,
                                     rows.longest, rows.longest, /*dropout_p=*/0.0,
                                     /*is_causal=*/true, /*return_debug_mask=*/false, scale,
                                     KeysToTheLeft(window), /*window_size_right=*/0);
    return {out, log_sum_exp};
  }

  AttentionGradients AttentionBackward(const at::Tensor& dout_THC, const at::Tensor& q_THC,
                                       const at::Tensor& k_TKC, const at::Tensor& v_TKC,
                                       const AttentionResult& forward, const PackedRows& rows,
                                       double scale, int64_t window) override {
    if (!FlashTakes(q_THC)) {
      return RowAttentionBackward(dout_THC, q_THC, k_TKC, v_TKC, forward, rows, scale, window);
    }
    // The random state only matters to dropout, of which there is none.
    const at::Tensor no_random_state = at::empty({2}, q_THC.options().dtype(at::kLong));
    auto [dq, dk, dv] = at::_flash_attention_backward(
        dout_THC, q_THC, k_TKC, v_TKC, forward.out_THC, forward.log_sum_exp, rows.starts_device,
        rows.starts_device, rows.longest, rows.longest, /*dropout_p=*/0.0, /*is_causal=*/true,
        no_random_state, no_random_state, scale, KeysToTheLeft(window), /*window_size_right=*/0);
    return {dq, dk, dv};
  }

  CrossEntropyResult CrossEntropyForward(const at::Tensor& logits_SV,
                                         const at::Tensor& targets_S) override {
    CheckLogits(logits_SV, targets_S);
    CrossEntropyResult result;
    result.losses_S = at::empty({logits_SV.size(0)}, AccumulateOptions(logits_SV));
    result.correct_S = at::empty({logits_SV.size(0)}, logits_SV.options().dtype(at::kBool));
    C10_CUDA_CHECK(LaunchCrossEntropyForward(ElementOf(logits_SV), logits_SV.data_ptr(),
                                             targets_S.const_data_ptr<int64_t>(), logits_SV.size(0),
                                             logits_SV.size(1), result.losses_S.data_ptr(),
                                             result.correct_S.mutable_data_ptr<bool>(), Stream()));
    return result;
  }

  void CrossEntropyBackwardInPlace(at::Tensor& logits_SV, const at::Tensor& targets_S,
                                   double scale) override {
    CheckLogits(logits_SV, targets_S);
    C10_CUDA_CHECK(LaunchCrossEntropyBackward(ElementOf(logits_SV), logits_SV.data_ptr(),
                                              targets_S.const_data_ptr<int64_t>(), scale,
                                              logits_SV.size(0), logits_SV.size(1), Stream()));
  }

  at::Tensor Dropout(const at::Tensor& x_TD, PhiloxKey key, double rate,
                     const TokenPlaces& places) override {
    CheckDense(x_TD, places.source_row_T, places.position_T);
    const int64_t width = x_TD.size(-1), rows = width == 0 ? 0 : x_TD.numel() / width;
    TORCH_CHECK(places.source_row_T.numel() == rows && places.position_T.numel() == rows,
                "token places do not fit the rows");
    at::Tensor y_TD = at::empty_like(x_TD);
    C10_CUDA_CHECK(LaunchDropout(
        ElementOf(x_TD), x_TD.data_ptr(), key, rate, places.source_row_T.const_data_ptr<int64_t>(),
        places.position_T.const_data_ptr<int64_t>(), rows, width, y_TD.data_ptr(), Stream()));
    return y_TD;
  }

  at::Tensor SumRows(const at::Tensor& x_TF) override {
    // A reduction on one device has one order; it does not depend on how busy the device is.
    return at::sum(x_TF.reshape({-1, x_TF.size(-1)}), at::IntArrayRef{0}, /*keepdim=*/false,
                   x_TF.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  }

  std::vector<double> ChunkSquareSums(const at::Tensor& flat_N, int64_t chunk) override {
    CheckDense(flat_N);
    TORCH_CHECK(flat_N.scalar_type() == at::kFloat && chunk > 0, "chunk sums take fp32");
    const int64_t count = flat_N.numel(), chunks = (count + chunk - 1) / chunk;
    const at::Tensor sums = at::empty({chunks}, flat_N.options().dtype(at::kDouble));
    C10_CUDA_CHECK(LaunchChunkSquareSums(flat_N.const_data_ptr<float>(), count, chunk,
                                         sums.mutable_data_ptr<double>(), Stream()));
    const at::Tensor on_cpu = sums.cpu();
    const double* const values = on_cpu.const_data_ptr<double>();
    return std::vector<double>(values, values + chunks);
  }

 private:
  static void CheckLogits(const at::Tensor& logits_SV, const at::Tensor& targets_S) {
    CheckDense(logits_SV, targets_S);
    TORCH_CHECK(logits_SV.dim() == 2 && targets_S.scalar_type() == at::kLong &&
                    targets_S.numel() == logits_SV.size(0),
                "targets do not fit the logits");
  }
};

}  // namespace

std::unique_ptr<Kernels> MakeCudaKernels() { return std::make_unique<CudaKernels>(); }

}  // namespace anneal::trainer::cuda
