// Sums of squares of fp32 elements in double, one block a chunk.

#include "worker/trainer/cuda/device_math.cuh"

namespace anneal::trainer::cuda {
namespace {

__global__ void __launch_bounds__(kBlock)
    ChunkSquareSumsKernel(const float* __restrict__ values, int64_t count, int64_t chunk,
                          bool aligned, double* __restrict__ sums) {
  const int64_t begin = blockIdx.x * chunk;
  const int64_t end = min(count, begin + chunk);
  double sum = 0;
  float pack[kPack<float>];
  for (int64_t i = begin + threadIdx.x * kPack<float>; i < end; i += kBlock * kPack<float>) {
    LoadPack(values + i, end - i, aligned, pack);
#pragma unroll
    for (int j = 0; j < kPack<float>; ++j) sum += static_cast<double>(pack[j]) * pack[j];
  }
  sum = ReduceBlock(sum, Add<double>());
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

}  // namespace

cudaError_t LaunchChunkSquareSums(const float* values, int64_t count, int64_t chunk, double* sums,
                                  cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  ChunkSquareSumsKernel<<<Blocks(count, chunk), kBlock, 0, stream>>>(
      values, count, chunk, RowsAligned<float>(chunk, values), sums);
  return cudaGetLastError();
}

}  // namespace anneal::trainer::cuda
