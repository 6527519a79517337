#pragma once
// What the kernels share: element types, 16-byte packs, sums over a warp or a block in one fixed
// order.

#include <cuda_bf16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "worker/trainer/cuda/launch.h"

namespace anneal::trainer::cuda {

inline constexpr int kWarp = 32;
// Threads of a block, everywhere: eight warps.
inline constexpr int kBlock = 256;
inline constexpr unsigned kAllLanes = 0xffffffffu;

// The type sums and formulas use for elements of type T.
template <typename T>
struct AccumulateOf {
  using Type = float;
};
template <>
struct AccumulateOf<double> {
  using Type = double;
};
template <typename T>
using Accumulate = typename AccumulateOf<T>::Type;

// Elements in 16 bytes.
template <typename T>
inline constexpr int kPack = 16 / sizeof(T);

__device__ inline float Widen(float x) { return x; }
__device__ inline double Widen(double x) { return x; }
__device__ inline float Widen(__nv_bfloat16 x) { return __bfloat162float(x); }
template <typename T>
__device__ inline T Narrow(Accumulate<T> x) {
  if constexpr (sizeof(T) == 2) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}

__device__ inline float Exp(float x) { return expf(x); }
__device__ inline double Exp(double x) { return exp(x); }
__device__ inline float Log(float x) { return logf(x); }
__device__ inline double Log(double x) { return log(x); }
__device__ inline float SquareRoot(float x) { return sqrtf(x); }
__device__ inline double SquareRoot(double x) { return sqrt(x); }

// Reads up to kPack elements from `from`, of which `count` exist; the others become zero.
// `aligned`: `from` is a multiple of 16 bytes.
template <typename T>
__device__ inline void LoadPack(const T* from, int64_t count, bool aligned,
                                Accumulate<T> (&out)[kPack<T>]) {
  if (aligned && count >= kPack<T>) {
    alignas(16) T values[kPack<T>];
    *reinterpret_cast<uint4*>(values) = *reinterpret_cast<const uint4*>(from);
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) out[i] = Widen(values[i]);
    return;
  }
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) out[i] = i < count ? Widen(from[i]) : Accumulate<T>(0);
}

template <typename T>
__device__ inline void StorePack(T* to, int64_t count, bool aligned,
                                 const Accumulate<T> (&in)[kPack<T>]) {
  if (aligned && count >= kPack<T>) {
    alignas(16) T values[kPack<T>];
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) values[i] = Narrow<T>(in[i]);
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(values);
    return;
  }
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) {
    if (i < count) to[i] = Narrow<T>(in[i]);
  }
}

// `value` as another lane of the warp has it, word by word, so that it serves small structs too.
template <typename V, typename ShuffleWord>
__device__ inline V Shuffle(const V& value, ShuffleWord shuffle_word) {
  static_assert(std::is_trivially_copyable_v<V> && sizeof(V) % sizeof(unsigned) == 0);
  unsigned words[sizeof(V) / sizeof(unsigned)];
  memcpy(words, &value, sizeof(V));
#pragma unroll
  for (unsigned& word : words) word = shuffle_word(word);
  V result;
  memcpy(&result, words, sizeof(V));
  return result;
}

// combine(lane 0, ..., lane 31) in a fixed tree; every lane gets lane 0's result.
template <typename V, typename Combine>
__device__ inline V ReduceWarp(V value, Combine combine) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value = combine(value, Shuffle(value, [=](unsigned word) {
                      return __shfl_down_sync(kAllLanes, word, step);
                    }));
  }
  return Shuffle(value, [](unsigned word) { return __shfl_sync(kAllLanes, word, 0); });
}

// The same over a whole block of kBlock threads: warps first, then their results in warp order.
// Every thread must call it, and gets the result. Contains barriers, so shared or global memory
// written before it may be read after it within the block.
template <typename V, typename Combine>
__device__ inline V ReduceBlock(V value, Combine combine) {
  constexpr int kWarps = kBlock / kWarp;
  __shared__ V of_warp[kWarps];
  value = ReduceWarp(value, combine);
  // The barrier before the write lets the previous call's readers finish.
  __syncthreads();
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  V total = of_warp[0];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) total = combine(total, of_warp[warp]);
  return total;
}

template <typename V>
struct Add {
  __device__ V operator()(V a, V b) const { return a + b; }
};

// Whether rows of `width` elements of T that begin at these addresses all begin at multiples of 16
// bytes.
template <typename T, typename... Pointers>
bool RowsAligned(int64_t width, Pointers... pointers) {
  return width % kPack<T> == 0 && ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

inline unsigned Blocks(int64_t items, int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

// Calls launch(T{}) with the C++ type of `type`, then reports the launch.
template <typename Launch>
cudaError_t Dispatch(Element type, Launch launch) {
  switch (type) {
    case Element::kFloat:
      launch(float{});
      break;
    case Element::kDouble:
      launch(double{});
      break;
    case Element::kBFloat16:
      launch(__nv_bfloat16{});
      break;
  }
  return cudaGetLastError();
}

}  // namespace anneal::trainer::cuda
