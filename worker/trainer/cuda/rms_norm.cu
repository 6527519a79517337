// RMSNorm (arXiv:1910.07467): y = x * r * w with r = 1 / sqrt(mean(x^2) + eps).
//
// Backward, with g = dy * w and D the width:  dx = r * g - x * r^3 / D * sum(g * x);  dw = sum over
// rows of dy * x * r. Narrow rows (a head's width, small models) take a warp each, wide rows a
// block each.

#include "worker/trainer/cuda/device_math.cuh"

namespace anneal::trainer::cuda {
namespace {

constexpr int64_t kWidestWarpRow = 1024;

template <int kRowThreads, typename V>
__device__ V RowSum(V value) {
  if constexpr (kRowThreads == kWarp) {
    return ReduceWarp(value, Add<V>());
  } else {
    return ReduceBlock(value, Add<V>());
  }
}

// This thread's row. Threads of one row leave together, so no barrier is missed.
template <int kRowThreads>
__device__ int64_t MyRow() {
  return static_cast<int64_t>(blockIdx.x) * (kBlock / kRowThreads) + threadIdx.x / kRowThreads;
}

template <typename T, int kRowThreads>
__global__ void __launch_bounds__(kBlock)
    ForwardKernel(const T* __restrict__ x, const T* __restrict__ weight, Accumulate<T> epsilon,
                  int64_t rows, int64_t width, bool aligned, T* __restrict__ y,
                  Accumulate<T>* __restrict__ inverse_rms) {
  using A = Accumulate<T>;
  constexpr int kStride = kRowThreads * kPack<T>;
  const int64_t row = MyRow<kRowThreads>();
  if (row >= rows) return;
  const int64_t first = (threadIdx.x % kRowThreads) * kPack<T>;
  x += row * width;
  y += row * width;

  A values[kPack<T>], weights[kPack<T>];
  A squares = 0;
  for (int64_t i = first; i < width; i += kStride) {
    LoadPack(x + i, width - i, aligned, values);
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) squares += values[j] * values[j];
  }
  const A mean = RowSum<kRowThreads>(squares) / static_cast<A>(width);
  const A r = A(1) / SquareRoot(mean + epsilon);
  if (first == 0) inverse_rms[row] = r;
  // The second reading of the row comes from the cache.
  for (int64_t i = first; i < width; i += kStride) {
    LoadPack(x + i, width - i, aligned, values);
    LoadPack(weight + i, width - i, aligned, weights);
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) values[j] *= r * weights[j];
    StorePack(y + i, width - i, aligned, values);
  }
}

template <typename T, int kRowThreads>
__global__ void __launch_bounds__(kBlock)
    BackwardKernel(const T* __restrict__ dy, const T* __restrict__ x, const T* __restrict__ weight,
                   const Accumulate<T>* __restrict__ inverse_rms, int64_t rows, int64_t width,
                   bool aligned, T* __restrict__ dx) {
  using A = Accumulate<T>;
  constexpr int kStride = kRowThreads * kPack<T>;
  const int64_t row = MyRow<kRowThreads>();
  if (row >= rows) return;
  const int64_t first = (threadIdx.x % kRowThreads) * kPack<T>;
  dy += row * width;
  x += row * width;
  dx += row * width;

  A gradients[kPack<T>], values[kPack<T>], weights[kPack<T>];
  A product = 0;
  for (int64_t i = first; i < width; i += kStride) {
    LoadPack(dy + i, width - i, aligned, gradients);
    LoadPack(x + i, width - i, aligned, values);
    LoadPack(weight + i, width - i, aligned, weights);
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) product += gradients[j] * weights[j] * values[j];
  }
  const A r = inverse_rms[row];
  const A pull = RowSum<kRowThreads>(product) / static_cast<A>(width) * r * r * r;
  for (int64_t i = first; i < width; i += kStride) {
    LoadPack(dy + i, width - i, aligned, gradients);
    LoadPack(x + i, width - i, aligned, values);
    LoadPack(weight + i, width - i, aligned, weights);
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j)
      gradients[j] = r * gradients[j] * weights[j] - pull * values[j];
    StorePack(dx + i, width - i, aligned, gradients);
  }
}

constexpr int64_t kRowsPerGroup = 64;
constexpr int64_t kMostGroups = 512;
constexpr int kWarps = kBlock / kWarp;

// Block (c, g) adds up its rows' dy * x * r for the columns of tile c. Lanes take neighbouring
// columns, warps every eighth row; the warps' sums are then added in warp order.
template <typename T>
__global__ void __launch_bounds__(kBlock)
    WeightGradientKernel(const T* __restrict__ dy, const T* __restrict__ x,
                         const Accumulate<T>* __restrict__ inverse_rms, int64_t rows, int64_t width,
                         int64_t rows_per_group, bool aligned,
                         Accumulate<T>* __restrict__ partial) {
  using A = Accumulate<T>;
  constexpr int kTile = kWarp * kPack<T>;
  __shared__ A of_warp[kWarps][kTile];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kTile + lane * kPack<T>;
  const int64_t first_row = blockIdx.y * rows_per_group;
  const int64_t last_row = min(rows, first_row + rows_per_group);

  A sums[kPack<T>] = {};
  if (column < width) {
    A gradients[kPack<T>], values[kPack<T>];
    for (int64_t row = first_row + warp; row < last_row; row += kWarps) {
      LoadPack(dy + row * width + column, width - column, aligned, gradients);
      LoadPack(x + row * width + column, width - column, aligned, values);
      const A r = inverse_rms[row];
#pragma unroll
      for (int j = 0; j < kPack<T>; ++j) sums[j] += gradients[j] * values[j] * r;
    }
  }
#pragma unroll
  for (int j = 0; j < kPack<T>; ++j) of_warp[warp][lane * kPack<T> + j] = sums[j];
  __syncthreads();
  for (int i = threadIdx.x; i < kTile; i += kBlock) {
    const int64_t mine = static_cast<int64_t>(blockIdx.x) * kTile + i;
    if (mine >= width) continue;
    A sum = of_warp[0][i];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) sum += of_warp[w][i];
    partial[blockIdx.y * width + mine] = sum;
  }
}

// Adds the groups' partial sums of 32 columns: each warp every eighth group, then the warps in
// order.
template <typename T>
__global__ void __launch_bounds__(kBlock)
    AddGroupsKernel(const Accumulate<T>* __restrict__ partial, int64_t groups, int64_t width,
                    Accumulate<T>* __restrict__ dweight) {
  using A = Accumulate<T>;
  __shared__ A of_warp[kWarps][kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
  A sum = 0;
  if (column < width) {
    for (int64_t group = warp; group < groups; group += kWarps)
      sum += partial[group * width + column];
  }
  of_warp[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= width) return;
#pragma unroll
  for (int w = 1; w < kWarps; ++w) sum += of_warp[w][lane];
  dweight[column] = sum;
}

int64_t RowsPerGroup(int64_t rows) {
  const int64_t to_fit = (rows + kMostGroups - 1) / kMostGroups;
  return to_fit > kRowsPerGroup ? to_fit : kRowsPerGroup;
}

}  // namespace

cudaError_t LaunchRmsNormForward(Element type, const void* x, const void* weight, double epsilon,
                                 int64_t rows, int64_t width, void* y, void* inverse_rms,
                                 cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return Dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    const bool narrow = width <= kWidestWarpRow;
    const auto kernel = narrow ? ForwardKernel<T, kWarp> : ForwardKernel<T, kBlock>;
    kernel<<<Blocks(rows, narrow ? kBlock / kWarp : 1), kBlock, 0, stream>>>(
        static_cast<const T*>(x), static_cast<const T*>(weight),
        static_cast<Accumulate<T>>(epsilon), rows, width, RowsAligned<T>(width, x, weight, y),
        static_cast<T*>(y), static_cast<Accumulate<T>*>(inverse_rms));
  });
}

cudaError_t LaunchRmsNormBackward(Element type, const void* dy, const void* x, const void* weight,
                                  const void* inverse_rms, int64_t rows, int64_t width, void* dx,
                                  cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return Dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    const bool narrow = width <= kWidestWarpRow;
    const auto kernel = narrow ? BackwardKernel<T, kWarp> : BackwardKernel<T, kBlock>;
    kernel<<<Blocks(rows, narrow ? kBlock / kWarp : 1), kBlock, 0, stream>>>(
        static_cast<const T*>(dy), static_cast<const T*>(x), static_cast<const T*>(weight),
        static_cast<const Accumulate<T>*>(inverse_rms), rows, width,
        RowsAligned<T>(width, dy, x, weight, dx), static_cast<T*>(dx));
  });
}

int64_t RmsNormWeightGradientGroups(int64_t rows) { return Blocks(rows, RowsPerGroup(rows)); }

cudaError_t LaunchRmsNormWeightGradient(Element type, const void* dy, const void* x,
                                        const void* inverse_rms, int64_t rows, int64_t width,
                                        void* partial, void* dweight, cudaStream_t stream) {
  return Dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    const int64_t groups = RmsNormWeightGradientGroups(rows);
    // Without rows there are no groups, and adding none writes zeros.
    if (groups > 0) {
      const dim3 grid(Blocks(width, kWarp * kPack<T>), static_cast<unsigned>(groups));
      WeightGradientKernel<T><<<grid, kBlock, 0, stream>>>(
          static_cast<const T*>(dy), static_cast<const T*>(x),
          static_cast<const Accumulate<T>*>(inverse_rms), rows, width, RowsPerGroup(rows),
          RowsAligned<T>(width, dy, x), static_cast<Accumulate<T>*>(partial));
    }
    AddGroupsKernel<T><<<Blocks(width, kWarp), kBlock, 0, stream>>>(
        static_cast<const Accumulate<T>*>(partial), groups, width,
        static_cast<Accumulate<T>*>(dweight));
  });
}

}  // namespace anneal::trainer::cuda
