#pragma once
// The CPU kernels' loops over one row, on plain pointers: compiled once per instruction set
// (row_loops.cc).
//
// A row is always computed by one thread, sums run over fixed lanes, and products are never fused
// into additions
// (-ffp-contract=off), so a row's bits depend neither on threads nor on the instruction set.
//
// T: float, double (tests) or c10::BFloat16. Accumulate<T>: what is computed in, float or double.

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <type_traits>

namespace anneal::trainer::row_loops {

template <typename T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T>
struct Loops {
  using Acc = Accumulate<T>;

  // y = x * inverse_rms * weight; returns inverse_rms.
  static Acc RmsNorm(const T* x, const T* weight, int64_t n, double epsilon, T* y);
  // dx of the same row.
  static void RmsNormBackward(const T* dy, const T* x, const T* weight, Acc inverse_rms, int64_t n,
                              T* dx);
  // sum[i] += dy[i] * x[i] * inverse_rms: one row's part of the weight's gradient.
  static void RmsNormWeightGradient(const T* dy, const T* x, Acc inverse_rms, int64_t n, Acc* sum);

  // Turns pairs (x[i], x[i + half]) by (cos, sin * sign), in place.
  static void Rotary(T* x, const float* cos, const float* sin, float sign, int64_t half);

  static void Swiglu(const T* gate, const T* up, int64_t n, T* out);
  static void SwigluBackward(const T* dh, const T* gate, const T* up, int64_t n, T* dgate, T* dup);

  // Largest element, and log(sum(exp(x))).
  static void LogSumExp(const T* x, int64_t n, Acc* largest, Acc* log_sum_exp);
  // x = scale * exp(x - log_sum_exp), in place.
  static void ScaledSoftmax(T* x, int64_t n, Acc log_sum_exp, Acc scale);
};

double SquareSum(const float* x, int64_t n);

}  // namespace anneal::trainer::row_loops
