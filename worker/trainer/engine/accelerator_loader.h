#pragma once
// Picks the accelerator that a task asks for.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/trainer/engine/accelerator.h"

namespace anneal::trainer {

// "cpu" or "cuda". For "cuda" the CUDA library is loaded from the program's folder or from ../lib
// beside it, and never closed: call this before anything else of ATen or c10d. NOT_FOUND if the
// library is not installed; FAILED_PRECONDITION if it finds no usable device, with what the driver
// says.
absl::StatusOr<std::unique_ptr<Accelerator>> LoadAccelerator(const std::string& device,
                                                             const AcceleratorOptions& options);

}  // namespace anneal::trainer
