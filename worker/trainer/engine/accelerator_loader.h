#pragma once
// Picks the accelerator that a task asks for.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/trainer/engine/accelerator.h"

namespace anneal::trainer {

// The CUDA library and what came with it. Stays loaded.
struct CudaLibrary {
  void* handle = nullptr;  // of dlopen
  std::string path;
};
// From the program's folder or from ../lib beside it. NOT_FOUND if it is not installed;
// FAILED_PRECONDITION if it does not load, with what the loader says.
absl::StatusOr<CudaLibrary> LoadCudaLibrary();
// "2.27.5"
absl::StatusOr<std::string> NcclVersion(const CudaLibrary& library);
// How many devices CUDA shows; FAILED_PRECONDITION with what it says if it does not start. Takes no
// memory on them.
absl::StatusOr<int> CountCudaDevices(const CudaLibrary& library);

// "cpu" or "cuda". For "cuda" the CUDA library is loaded and never closed: call this before
// anything else of ATen or c10d. NOT_FOUND if the library is not installed; FAILED_PRECONDITION if
// it finds no usable device, with what the driver says.
absl::StatusOr<std::unique_ptr<Accelerator>> LoadAccelerator(const std::string& device,
                                                             const AcceleratorOptions& options);

}  // namespace anneal::trainer
