#pragma once
// The CPU as an accelerator: our own kernels, and Gloo.

#include <memory>

#include "worker/trainer/engine/accelerator.h"

namespace anneal::trainer {

std::unique_ptr<Accelerator> MakeCpuAccelerator();

}  // namespace anneal::trainer
