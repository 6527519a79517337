#pragma once
// Loading libanneal_trainer_cuda.so as anneal-trainer does it, for tests. Each test program has its
// own main, because the library must be loaded before any other ATen call.

#include <memory>

#include "absl/status/statusor.h"
#include "worker/trainer/engine/accelerator.h"

namespace anneal::trainer::cuda::testing {

// Whether a driver shows its device on this machine. Asks the file system, not CUDA.
bool MachineHasGpu();

// Loads the library from beside the program and makes an accelerator.
absl::StatusOr<std::unique_ptr<Accelerator>> LoadCudaAccelerator();

// What ctest counts as skipped (SKIP_RETURN_CODE).
inline constexpr int kSkipped = 77;
// The main of tests that need a GPU: runs them all, or says that there is none and returns
// kSkipped.
int RunTestsOnGpu(int argc, char** argv);
// The accelerator of a program whose main is RunTestsOnGpu.
Accelerator& TheAccelerator();

}  // namespace anneal::trainer::cuda::testing
