#pragma once
// Launches of our own CUDA kernels: the seam between the .cu files, which know no torch, and
// cuda_kernels.cc, which knows no device code.
//
// Pointers are device memory, contiguous, of `type` unless their type says otherwise. The
// accumulating type is float, and double for kDouble; `void*` results named so are of that type.
// Each call queues work on `stream` and returns what cudaGetLastError says of the launch; an error
// of the running kernel shows at the next synchronisation. An empty tensor queues nothing. No
// kernel uses atomics: every sum has one fixed order that depends on the shapes alone, so the same
// input gives the same bits on every run and every device of one architecture.
//
// Loads and stores are 16 bytes wide where the addresses allow it; that never changes the order of
// a sum.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "worker/trainer/kernels/philox.h"

namespace anneal::trainer::cuda {

enum class Element { kFloat, kDouble, kBFloat16 };

// y = x * inverse_rms * weight, row by row. inverse_rms: accumulating type [rows].
cudaError_t LaunchRmsNormForward(Element type, const void* x, const void* weight, double epsilon,
                                 int64_t rows, int64_t width, void* y, void* inverse_rms,
                                 cudaStream_t stream);
cudaError_t LaunchRmsNormBackward(Element type, const void* dy, const void* x, const void* weight,
                                  const void* inverse_rms, int64_t rows, int64_t width, void* dx,
                                  cudaStream_t stream);
// How many partial sums per column LaunchRmsNormWeightGradient needs room for.
int64_t RmsNormWeightGradientGroups(int64_t rows);
// partial: accumulating type [groups, width], scratch. dweight: accumulating type [width].
cudaError_t LaunchRmsNormWeightGradient(Element type, const void* dy, const void* x,
                                        const void* inverse_rms, int64_t rows, int64_t width,
                                        void* partial, void* dweight, cudaStream_t stream);

// x [tokens, heads, head_width] in place; cos and sin [tokens, head_width / 2].
cudaError_t LaunchRotary(Element type, void* x, const float* cos, const float* sin, int64_t tokens,
                         int64_t heads, int64_t head_width, bool inverse, cudaStream_t stream);

cudaError_t LaunchSwigluForward(Element type, const void* gate, const void* up, int64_t count,
                                void* h, cudaStream_t stream);
cudaError_t LaunchSwigluBackward(Element type, const void* dh, const void* gate, const void* up,
                                 int64_t count, void* dgate, void* dup, cudaStream_t stream);

// losses: accumulating type [rows]. A target outside [0, vocabulary) gives the loss NaN, which the
// engine's finite check stops.
cudaError_t LaunchCrossEntropyForward(Element type, const void* logits, const int64_t* targets,
                                      int64_t rows, int64_t vocabulary, void* losses, bool* correct,
                                      cudaStream_t stream);
// logits become scale * (softmax(logits) - one_hot(target)).
cudaError_t LaunchCrossEntropyBackward(Element type, void* logits, const int64_t* targets,
                                       double scale, int64_t rows, int64_t vocabulary,
                                       cudaStream_t stream);

// Row i of x is the token at `positions[i]` of data row `source_rows[i]`; DropoutKeeps decides.
cudaError_t LaunchDropout(Element type, const void* x, PhiloxKey key, double rate,
                          const int64_t* source_rows, const int64_t* positions, int64_t rows,
                          int64_t width, void* y, cudaStream_t stream);

// sums [ceil(count / chunk)].
cudaError_t LaunchChunkSquareSums(const float* values, int64_t count, int64_t chunk, double* sums,
                                  cudaStream_t stream);

}  // namespace anneal::trainer::cuda
