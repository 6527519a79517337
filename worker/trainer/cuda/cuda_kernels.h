#pragma once
// The CUDA implementation of Kernels: own kernels (launch.h) for all but attention; flash attention
// on packed rows for bfloat16, row_attention.h for float and double. Supports float, double and
// bfloat16.
//
// Work is queued on the device's current stream. Errors of launches, and of earlier work that show
// there, are thrown as c10::Error, as ATen does.

#include <memory>

#include "worker/trainer/kernels/kernels.h"

namespace anneal::trainer::cuda {

std::unique_ptr<Kernels> MakeCudaKernels();

}  // namespace anneal::trainer::cuda
