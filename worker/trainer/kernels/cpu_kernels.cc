// The CPU implementation of Kernels: rows are dealt to threads, the loops over a row are in
// row_loops.cc.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include "common/base/status.h"
#include "worker/trainer/kernels/cpu_attention.h"
#include "worker/trainer/kernels/kernels.h"
#include "worker/trainer/kernels/row_loops.h"

namespace anneal::trainer {
namespace {

using row_loops::Accumulate;
using row_loops::Loops;

// Rows are dealt to threads in portions of about so many elements; smaller work stays on the
// caller's thread.
constexpr int64_t kGrainElements = 16384;
// Rows that one thread sums up; the portions are then added in order.
constexpr int64_t kSumPortion = 64;

template <typename Fn>
void Dispatch(at::ScalarType type, const Fn& fn) {
  switch (type) {
    case at::kFloat:
      return fn(float{});
    case at::kDouble:
      return fn(double{});
    case at::kBFloat16:
      return fn(c10::BFloat16{});
    default:
      ANNEAL_CHECK(false && "compute type must be float, double or bfloat16");
  }
}

at::TensorOptions AccumulateOptions(const at::Tensor& like) {
  return like.options().dtype(like.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
}

template <typename Fn>
void ForRows(int64_t rows, int64_t row_elements, const Fn& fn) {
  at::parallel_for(0, rows, std::max<int64_t>(1, kGrainElements / row_elements),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t row = begin; row < end; ++row) fn(row);
                   });
}

// Rows of the last dimension.
struct Rows {
  explicit Rows(const at::Tensor& x)
      : length(x.size(-1)), count(length == 0 ? 0 : x.numel() / length) {
    ANNEAL_CHECK(x.is_contiguous());
  }
  int64_t length, count;
};

// A sum over rows, [length]: add(row, sum) adds a row's part to `sum`.
template <typename Acc, typename Fn>
at::Tensor SumOverRows(const Rows& rows, at::TensorOptions options, const Fn& add) {
  const int64_t portions = (rows.count + kSumPortion - 1) / kSumPortion;
  at::Tensor sums_PD = at::zeros({portions, rows.length}, options);
  Acc* sums = sums_PD.mutable_data_ptr<Acc>();
  ForRows(portions, kSumPortion * rows.length, [&](int64_t portion) {
    const int64_t end = std::min(rows.count, (portion + 1) * kSumPortion);
    for (int64_t row = portion * kSumPortion; row < end; ++row)
      add(row, sums + portion * rows.length);
  });
  at::Tensor sum_D = at::zeros({rows.length}, options);
  for (int64_t portion = 0; portion < portions; ++portion) sum_D.add_(sums_PD[portion]);
  return sum_D;
}

class CpuKernels : public Kernels {
 public:
  RmsNormResult RmsNormForward(const at::Tensor& x_TD, const at::Tensor& weight_D,
                               double epsilon) override {
    const Rows rows(x_TD);
    RmsNormResult result = {at::empty_like(x_TD), at::empty({rows.count}, AccumulateOptions(x_TD))};
    Dispatch(x_TD.scalar_type(), [&]<typename T>(T) {
      const T* x = x_TD.const_data_ptr<T>();
      const T* weight = weight_D.const_data_ptr<T>();
      T* y = result.y_TD.mutable_data_ptr<T>();
      auto* inverse_rms = result.inverse_rms_T.mutable_data_ptr<Accumulate<T>>();
      ForRows(rows.count, rows.length, [&](int64_t row) {
        const int64_t at = row * rows.length;
        inverse_rms[row] = Loops<T>::RmsNorm(x + at, weight, rows.length, epsilon, y + at);
      });
    });
    return result;
  }

  RmsNormGradients RmsNormBackward(const at::Tensor& dy_TD, const at::Tensor& x_TD,
                                   const at::Tensor& weight_D, const at::Tensor& inverse_rms_T,
                                   bool need_weight_gradient) override {
    const Rows rows(x_TD);
    ANNEAL_CHECK(dy_TD.is_contiguous());
    RmsNormGradients gradients = {at::empty_like(x_TD), {}};
    Dispatch(x_TD.scalar_type(), [&]<typename T>(T) {
      using Acc = Accumulate<T>;
      const T* dy = dy_TD.const_data_ptr<T>();
      const T* x = x_TD.const_data_ptr<T>();
      const T* weight = weight_D.const_data_ptr<T>();
      const Acc* inverse_rms = inverse_rms_T.const_data_ptr<Acc>();
      T* dx = gradients.dx_TD.mutable_data_ptr<T>();
      ForRows(rows.count, rows.length, [&](int64_t row) {
        const int64_t at = row * rows.length;
        Loops<T>::RmsNormBackward(dy + at, x + at, weight, inverse_rms[row], rows.length, dx + at);
      });
      if (!need_weight_gradient) return;
      gradients.dweight_D =
          SumOverRows<Acc>(rows, AccumulateOptions(x_TD), [&](int64_t row, Acc* sum) {
            const int64_t at = row * rows.length;
            Loops<T>::RmsNormWeightGradient(dy + at, x + at, inverse_rms[row], rows.length, sum);
          });
    });
    return gradients;
  }

  void RotaryInPlace(at::Tensor& x_THC, const at::Tensor& cos_TC, const at::Tensor& sin_TC,
                     bool inverse) override {
    const Rows rows(x_THC);
    const int64_t heads = x_THC.size(1), half = rows.length / 2;
    ANNEAL_CHECK(cos_TC.is_contiguous() && sin_TC.is_contiguous() && cos_TC.size(1) == half);
    const float* cos = cos_TC.const_data_ptr<float>();
    const float* sin = sin_TC.const_data_ptr<float>();
    const float sign = inverse ? -1.0f : 1.0f;
    Dispatch(x_THC.scalar_type(), [&]<typename T>(T) {
      T* x = x_THC.mutable_data_ptr<T>();
      ForRows(rows.count, rows.length, [&](int64_t row) {
        const int64_t angle = row / heads * half;
        Loops<T>::Rotary(x + row * rows.length, cos + angle, sin + angle, sign, half);
      });
    });
  }

  at::Tensor SwigluForward(const at::Tensor& gate_TF, const at::Tensor& up_TF) override {
    const Rows rows(gate_TF);
    ANNEAL_CHECK(up_TF.is_contiguous());
    at::Tensor out_TF = at::empty_like(gate_TF);
    Dispatch(gate_TF.scalar_type(), [&]<typename T>(T) {
      const T* gate = gate_TF.const_data_ptr<T>();
      const T* up = up_TF.const_data_ptr<T>();
      T* out = out_TF.mutable_data_ptr<T>();
      ForRows(rows.count, rows.length, [&](int64_t row) {
        const int64_t at = row * rows.length;
        Loops<T>::Swiglu(gate + at, up + at, rows.length, out + at);
      });
    });
    return out_TF;
  }

  SwigluGradients SwigluBackward(const at::Tensor& dh_TF, const at::Tensor& gate_TF,
                                 const at::Tensor& up_TF) override {
    const Rows rows(gate_TF);
    ANNEAL_CHECK(dh_TF.is_contiguous() && up_TF.is_contiguous());
    SwigluGradients gradients = {at::empty_like(gate_TF), at::empty_like(up_TF)};
    Dispatch(gate_TF.scalar_type(), [&]<typename T>(T) {
      const T* dh = dh_TF.const_data_ptr<T>();
      const T* gate = gate_TF.const_data_ptr<T>();
      const T* up = up_TF.const_data_ptr<T>();
      T* dgate = gradients.dgate_TF.mutable_data_ptr<T>();
      T* dup = gradients.dup_TF.mutable_data_ptr<T>();
      ForRows(rows.count, rows.length, [&](int64_t row) {
        const int64_t at = row * rows.length;
        Loops<T>::SwigluBackward(dh + at, gate + at, up + at, rows.length, dgate + at, dup + at);
      });
    });
    return gradients;
  }

  AttentionResult AttentionForward(const at::Tensor& q_THC, const at::Tensor& k_TKC,
                                   const at::Tensor& v_TKC, const PackedRows& rows, double scale,
                                   int64_t window) override {
    return CpuAttentionForward(q_THC, k_TKC, v_TKC, rows, scale, window);
  }
  AttentionGradients AttentionBackward(const at::Tensor& dout_THC, const at::Tensor& q_THC,
                                       const at::Tensor& k_TKC, const at::Tensor& v_TKC,
                                       const AttentionResult& forward, const PackedRows& rows,
                                       double scale, int64_t window) override {
    return CpuAttentionBackward(dout_THC, q_THC, k_TKC, v_TKC, forward, rows, scale, window);
  }

  CrossEntropyResult CrossEntropyForward(const at::Tensor& logits_SV,
                                         const at::Tensor& targets_S) override {
    const Rows rows(logits_SV);
    CrossEntropyResult result = {at::empty({rows.count}, AccumulateOptions(logits_SV)),
                                 at::empty({rows.count}, logits_SV.options().dtype(at::kBool))};
    const int64_t* targets = targets_S.const_data_ptr<int64_t>();
    bool* correct = result.correct_S.mutable_data_ptr<bool>();
    Dispatch(logits_SV.scalar_type(), [&]<typename T>(T) {
      using Acc = Accumulate<T>;
      const T* logits = logits_SV.const_data_ptr<T>();
      Acc* losses = result.losses_S.mutable_data_ptr<Acc>();
      ForRows(rows.count, rows.length, [&](int64_t row) {
        const T* x = logits + row * rows.length;
        const int64_t target = targets[row];
        ANNEAL_CHECK(target >= 0 && target < rows.length);
        Acc largest, log_sum_exp;
        Loops<T>::LogSumExp(x, rows.length, &largest, &log_sum_exp);
        const Acc at_target = static_cast<Acc>(x[target]);
        losses[row] = log_sum_exp - at_target;
        correct[row] = at_target == largest && std::find(x, x + target, x[target]) == x + target;
      });
    });
    return result;
  }

  void CrossEntropyBackwardInPlace(at::Tensor& logits_SV, const at::Tensor& targets_S,
                                   double scale) override {
    const Rows rows(logits_SV);
    const int64_t* targets = targets_S.const_data_ptr<int64_t>();
    Dispatch(logits_SV.scalar_type(), [&]<typename T>(T) {
      using Acc = Accumulate<T>;
      T* logits = logits_SV.mutable_data_ptr<T>();
      ForRows(rows.count, rows.length, [&](int64_t row) {
        T* x = logits + row * rows.length;
        const int64_t target = targets[row];
        ANNEAL_CHECK(target >= 0 && target < rows.length);
        Acc largest, log_sum_exp;
        Loops<T>::LogSumExp(x, rows.length, &largest, &log_sum_exp);
        Loops<T>::ScaledSoftmax(x, rows.length, log_sum_exp, static_cast<Acc>(scale));
        x[target] = static_cast<T>(static_cast<Acc>(x[target]) - static_cast<Acc>(scale));
      });
    });
  }

  at::Tensor Dropout(const at::Tensor& x_TD, PhiloxKey key, double rate,
                     const TokenPlaces& places) override {
    const Rows rows(x_TD);
    at::Tensor out_TD = at::empty_like(x_TD);
    const int64_t* source_rows = places.source_row_T.const_data_ptr<int64_t>();
    const int64_t* positions = places.position_T.const_data_ptr<int64_t>();
    Dispatch(x_TD.scalar_type(), [&]<typename T>(T) {
      using Acc = Accumulate<T>;
      const T* x = x_TD.const_data_ptr<T>();
      T* out = out_TD.mutable_data_ptr<T>();
      const Acc scale = static_cast<Acc>(1 / (1 - rate));
      ForRows(rows.count, rows.length, [&](int64_t row) {
        for (int64_t i = 0; i < rows.length; ++i) {
          const int64_t at = row * rows.length + i;
          const bool keep =
              DropoutKeeps(key, static_cast<float>(rate), source_rows[row], positions[row], i);
          out[at] = static_cast<T>(keep ? static_cast<Acc>(x[at]) * scale : Acc{0});
        }
      });
    });
    return out_TD;
  }

  at::Tensor SumRows(const at::Tensor& x_TF) override {
    const Rows rows(x_TF);
    at::Tensor sum_F;
    Dispatch(x_TF.scalar_type(), [&]<typename T>(T) {
      using Acc = Accumulate<T>;
      const T* x = x_TF.const_data_ptr<T>();
      sum_F = SumOverRows<Acc>(rows, AccumulateOptions(x_TF), [&](int64_t row, Acc* sum) {
        for (int64_t i = 0; i < rows.length; ++i)
          sum[i] += static_cast<Acc>(x[row * rows.length + i]);
      });
    });
    return sum_F;
  }

  std::vector<double> ChunkSquareSums(const at::Tensor& flat_N, int64_t chunk) override {
    ANNEAL_CHECK(flat_N.is_contiguous() && chunk > 0);
    const int64_t n = flat_N.numel();
    const float* x = flat_N.const_data_ptr<float>();
    std::vector<double> sums((n + chunk - 1) / chunk);
    ForRows(static_cast<int64_t>(sums.size()), chunk, [&](int64_t i) {
      sums[i] = row_loops::SquareSum(x + i * chunk, std::min(chunk, n - i * chunk));
    });
    return sums;
  }
};

}  // namespace

std::unique_ptr<Kernels> MakeCpuKernels() { return std::make_unique<CpuKernels>(); }

}  // namespace anneal::trainer
