// Rotary embedding, the gated activation and dropout: nothing is summed.

#include "worker/trainer/cuda/device_math.cuh"

namespace anneal::trainer::cuda {
namespace {

// One thread turns kPack pairs (i, i + half) of one head of one token.
template <typename T>
__global__ void __launch_bounds__(kBlock)
    RotaryKernel(T* __restrict__ x, const float* __restrict__ cos, const float* __restrict__ sin,
                 int64_t items, int64_t heads, int64_t half, int64_t packs, bool inverse,
                 bool aligned) {
  using A = Accumulate<T>;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (item >= items) return;
  const int64_t begin = item % packs * kPack<T>, head = item / packs, token = head / heads;
  const int64_t count = half - begin;
  T* const low = x + head * 2 * half + begin;
  T* const high = low + half;
  cos += token * half + begin;
  sin += token * half + begin;

  A a[kPack<T>], b[kPack<T>], turned_a[kPack<T>], turned_b[kPack<T>];
  LoadPack(low, count, aligned, a);
  LoadPack(high, count, aligned, b);
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) {
    const A c = i < count ? cos[i] : 0, s = i < count ? (inverse ? -sin[i] : sin[i]) : 0;
    turned_a[i] = a[i] * c - b[i] * s;
    turned_b[i] = b[i] * c + a[i] * s;
  }
  StorePack(low, count, aligned, turned_a);
  StorePack(high, count, aligned, turned_b);
}

// Written so that neither end overflows: exp(-x) may be infinite, and 1 / infinity is the right 0.
template <typename A>
__device__ A Sigmoid(A x) {
  return A(1) / (A(1) + Exp(-x));
}

template <typename T>
__global__ void __launch_bounds__(kBlock)
    SwigluForwardKernel(const T* __restrict__ gate, const T* __restrict__ up, int64_t count,
                        bool aligned, T* __restrict__ h) {
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x) * kPack<T>;
  if (begin >= count) return;
  Accumulate<T> g[kPack<T>], u[kPack<T>];
  LoadPack(gate + begin, count - begin, aligned, g);
  LoadPack(up + begin, count - begin, aligned, u);
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) g[i] = g[i] * Sigmoid(g[i]) * u[i];
  StorePack(h + begin, count - begin, aligned, g);
}

// d silu(g) / dg = s * (1 + g * (1 - s)) with s = sigmoid(g).
template <typename T>
__global__ void __launch_bounds__(kBlock)
    SwigluBackwardKernel(const T* __restrict__ dh, const T* __restrict__ gate,
                         const T* __restrict__ up, int64_t count, bool aligned,
                         T* __restrict__ dgate, T* __restrict__ dup) {
  using A = Accumulate<T>;
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x) * kPack<T>;
  if (begin >= count) return;
  A d[kPack<T>], g[kPack<T>], u[kPack<T>];
  LoadPack(dh + begin, count - begin, aligned, d);
  LoadPack(gate + begin, count - begin, aligned, g);
  LoadPack(up + begin, count - begin, aligned, u);
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) {
    const A s = Sigmoid(g[i]);
    const A gate_gradient = d[i] * u[i] * s * (A(1) + g[i] * (A(1) - s));
    u[i] = d[i] * g[i] * s;
    g[i] = gate_gradient;
  }
  StorePack(dgate + begin, count - begin, aligned, g);
  StorePack(dup + begin, count - begin, aligned, u);
}

template <typename T>
__global__ void __launch_bounds__(kBlock)
    DropoutKernel(const T* __restrict__ x, PhiloxKey key, float rate, Accumulate<T> scale,
                  const int64_t* __restrict__ source_rows, const int64_t* __restrict__ positions,
                  int64_t items, int64_t width, int64_t packs, bool aligned, T* __restrict__ y) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (item >= items) return;
  const int64_t row = item / packs, begin = item % packs * kPack<T>;
  const int64_t source_row = source_rows[row], position = positions[row];
  Accumulate<T> values[kPack<T>];
  LoadPack(x + row * width + begin, width - begin, aligned, values);
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) {
    const bool keep = DropoutKeeps(key, rate, source_row, position, begin + i);
    values[i] = keep ? values[i] * scale : Accumulate<T>(0);
  }
  StorePack(y + row * width + begin, width - begin, aligned, values);
}

}  // namespace

cudaError_t LaunchRotary(Element type, void* x, const float* cos, const float* sin, int64_t tokens,
                         int64_t heads, int64_t head_width, bool inverse, cudaStream_t stream) {
  if (tokens == 0) return cudaSuccess;
  return Dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    const int64_t half = head_width / 2;
    const int64_t packs = (half + kPack<T> - 1) / kPack<T>;
    const int64_t items = tokens * heads * packs;
    RotaryKernel<T><<<Blocks(items, kBlock), kBlock, 0, stream>>>(
        static_cast<T*>(x), cos, sin, items, heads, half, packs, inverse, RowsAligned<T>(half, x));
  });
}

cudaError_t LaunchSwigluForward(Element type, const void* gate, const void* up, int64_t count,
                                void* h, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  return Dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    SwigluForwardKernel<T><<<Blocks(count, kBlock * kPack<T>), kBlock, 0, stream>>>(
        static_cast<const T*>(gate), static_cast<const T*>(up), count,
        RowsAligned<T>(0, gate, up, h), static_cast<T*>(h));
  });
}

cudaError_t LaunchSwigluBackward(Element type, const void* dh, const void* gate, const void* up,
                                 int64_t count, void* dgate, void* dup, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  return Dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    SwigluBackwardKernel<T><<<Blocks(count, kBlock * kPack<T>), kBlock, 0, stream>>>(
        static_cast<const T*>(dh), static_cast<const T*>(gate), static_cast<const T*>(up), count,
        RowsAligned<T>(0, dh, gate, up, dgate, dup), static_cast<T*>(dgate), static_cast<T*>(dup));
  });
}

cudaError_t LaunchDropout(Element type, const void* x, PhiloxKey key, double rate,
                          const int64_t* source_rows, const int64_t* positions, int64_t rows,
                          int64_t width, void* y, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return Dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    const int64_t packs = (width + kPack<T> - 1) / kPack<T>;
    const int64_t items = rows * packs;
    DropoutKernel<T><<<Blocks(items, kBlock), kBlock, 0, stream>>>(
        static_cast<const T*>(x), key, static_cast<float>(rate),
        static_cast<Accumulate<T>>(1 / (1 - rate)), source_rows, positions, items, width, packs,
        RowsAligned<T>(width, x, y), static_cast<T*>(y));
  });
}

}  // namespace anneal::trainer::cuda
