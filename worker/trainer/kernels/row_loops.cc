#include "worker/trainer/kernels/row_loops.h"

#include <cmath>
#include <cstring>

// Every function of Loops exists once per instruction set; the dynamic linker picks one. The bodies
// are plain loops that GCC vectorises for each.
#define ANNEAL_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#define ANNEAL_INLINE inline __attribute__((always_inline))

namespace anneal::trainer::row_loops {
namespace {

// Sums run over this many interleaved lanes, folded in a fixed order at the end.
constexpr int kLanes = 16;
template <typename A>
using Lanes __attribute__((vector_size(kLanes * sizeof(A)))) = A;

template <typename T>
ANNEAL_INLINE void LoadLanes(const T* from, Lanes<Accumulate<T>>& to) {
  for (int lane = 0; lane < kLanes; ++lane) to[lane] = static_cast<Accumulate<T>>(from[lane]);
}
template <>
ANNEAL_INLINE void LoadLanes<float>(const float* from, Lanes<float>& to) {
  std::memcpy(&to, from, sizeof(to));
}

template <typename A>
ANNEAL_INLINE A Fold(const Lanes<A>& lanes) {
  A part[kLanes];
  std::memcpy(part, &lanes, sizeof(part));
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) part[lane] += part[lane + width];
  }
  return part[0];
}

// exp by range reduction to [-ln2/2, ln2/2] and a polynomial (Cephes expf), good to 2 ulp;
// vectorises, unlike std::exp.
ANNEAL_INLINE float Exp(float x) {
  constexpr float kRound =
      12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number, kept in the low bits
  x = x < -87.3f ? -87.3f : x;
  x = x > 88.3f ? 88.3f : x;
  const float rounded = x * 1.44269504088896341f + kRound;
  const float n = rounded - kRound;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float value = (p * r) * r + r + 1.0f;
  const uint32_t exponent = (__builtin_bit_cast(uint32_t, rounded) << 23) + (127u << 23);
  return value * __builtin_bit_cast(float, exponent);
}
ANNEAL_INLINE double Exp(double x) { return std::exp(x); }

template <typename A>
ANNEAL_INLINE A Sigmoid(A x) {
  return A{1} / (A{1} + Exp(-x));
}

template <typename T>
ANNEAL_INLINE Accumulate<T> SumOfProducts(const T* a, const T* b, const T* c, int64_t n) {
  using A = Accumulate<T>;
  Lanes<A> sum = {}, va, vb, vc;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    LoadLanes(a + i, va);
    LoadLanes(b + i, vb);
    if (c != nullptr) {
      LoadLanes(c + i, vc);
      va *= vc;
    }
    sum += va * vb;
  }
  for (int lane = 0; i < n; ++i, ++lane) {
    const A factor = c != nullptr ? static_cast<A>(c[i]) : A{1};
    sum[lane] += (static_cast<A>(a[i]) * factor) * static_cast<A>(b[i]);
  }
  return Fold<A>(sum);
}

}  // namespace

template <typename T>
ANNEAL_CLONES typename Loops<T>::Acc Loops<T>::RmsNorm(const T* x, const T* weight, int64_t n,
                                                       double epsilon, T* y) {
  const Acc mean = SumOfProducts<T>(x, x, nullptr, n) / static_cast<Acc>(n);
  const Acc inverse_rms = Acc{1} / std::sqrt(mean + static_cast<Acc>(epsilon));
  for (int64_t i = 0; i < n; ++i) {
    y[i] = static_cast<T>(static_cast<Acc>(x[i]) * inverse_rms * static_cast<Acc>(weight[i]));
  }
  return inverse_rms;
}

template <typename T>
ANNEAL_CLONES void Loops<T>::RmsNormBackward(const T* dy, const T* x, const T* weight,
                                             Acc inverse_rms, int64_t n, T* dx) {
  const Acc projection =
      SumOfProducts<T>(dy, x, weight, n) * inverse_rms * inverse_rms / static_cast<Acc>(n);
  for (int64_t i = 0; i < n; ++i) {
    const Acc dn = static_cast<Acc>(dy[i]) * static_cast<Acc>(weight[i]);
    dx[i] = static_cast<T>(inverse_rms * (dn - static_cast<Acc>(x[i]) * projection));
  }
}

template <typename T>
ANNEAL_CLONES void Loops<T>::RmsNormWeightGradient(const T* dy, const T* x, Acc inverse_rms,
                                                   int64_t n, Acc* sum) {
  for (int64_t i = 0; i < n; ++i)
    sum[i] += static_cast<Acc>(dy[i]) * (static_cast<Acc>(x[i]) * inverse_rms);
}

template <typename T>
ANNEAL_CLONES void Loops<T>::Rotary(T* x, const float* cos, const float* sin, float sign,
                                    int64_t half) {
  T* const second = x + half;
  for (int64_t i = 0; i < half; ++i) {
    const Acc a = static_cast<Acc>(x[i]), b = static_cast<Acc>(second[i]);
    const Acc c = cos[i], s = sin[i] * sign;
    x[i] = static_cast<T>(a * c - b * s);
    second[i] = static_cast<T>(b * c + a * s);
  }
}

template <typename T>
ANNEAL_CLONES void Loops<T>::Swiglu(const T* gate, const T* up, int64_t n, T* out) {
  for (int64_t i = 0; i < n; ++i) {
    const Acc g = static_cast<Acc>(gate[i]);
    out[i] = static_cast<T>(g * Sigmoid(g) * static_cast<Acc>(up[i]));
  }
}

template <typename T>
ANNEAL_CLONES void Loops<T>::SwigluBackward(const T* dh, const T* gate, const T* up, int64_t n,
                                            T* dgate, T* dup) {
  for (int64_t i = 0; i < n; ++i) {
    const Acc d = static_cast<Acc>(dh[i]), g = static_cast<Acc>(gate[i]),
              u = static_cast<Acc>(up[i]);
    const Acc sigmoid = Sigmoid(g);
    dgate[i] = static_cast<T>(d * u * sigmoid * (Acc{1} + g * (Acc{1} - sigmoid)));
    dup[i] = static_cast<T>(d * g * sigmoid);
  }
}

template <typename T>
ANNEAL_CLONES void Loops<T>::LogSumExp(const T* x, int64_t n, Acc* largest, Acc* log_sum_exp) {
  Acc max = static_cast<Acc>(x[0]);
  {
    Acc lane_max[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) lane_max[lane] = max;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const Acc value = static_cast<Acc>(x[i + lane]);
        lane_max[lane] = value > lane_max[lane] ? value : lane_max[lane];
      }
    }
    for (; i < n; ++i) max = static_cast<Acc>(x[i]) > max ? static_cast<Acc>(x[i]) : max;
    for (int lane = 0; lane < kLanes; ++lane) max = lane_max[lane] > max ? lane_max[lane] : max;
  }
  // Each stretch is summed in Acc and added in double, so that the error does not grow with the
  // vocabulary.
  constexpr int64_t kStretch = 1024;
  double sum = 0;
  for (int64_t begin = 0; begin < n; begin += kStretch) {
    const int64_t end = begin + kStretch < n ? begin + kStretch : n;
    Acc part[kLanes] = {};
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane)
        part[lane] += Exp(static_cast<Acc>(x[i + lane]) - max);
    }
    for (int lane = 0; i < end; ++i, ++lane) part[lane] += Exp(static_cast<Acc>(x[i]) - max);
    for (int lane = 0; lane < kLanes; ++lane) sum += static_cast<double>(part[lane]);
  }
  *largest = max;
  *log_sum_exp = static_cast<Acc>(static_cast<double>(max) + std::log(sum));
}

template <typename T>
ANNEAL_CLONES void Loops<T>::ScaledSoftmax(T* x, int64_t n, Acc log_sum_exp, Acc scale) {
  for (int64_t i = 0; i < n; ++i)
    x[i] = static_cast<T>(scale * Exp(static_cast<Acc>(x[i]) - log_sum_exp));
}

ANNEAL_CLONES double SquareSum(const float* x, int64_t n) {
  Lanes<double> sum = {}, value;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) value[lane] = x[i + lane];
    sum += value * value;
  }
  for (int lane = 0; i < n; ++i, ++lane) sum[lane] += static_cast<double>(x[i]) * x[i];
  return Fold<double>(sum);
}

template struct Loops<float>;
template struct Loops<double>;
template struct Loops<c10::BFloat16>;

}  // namespace anneal::trainer::row_loops
