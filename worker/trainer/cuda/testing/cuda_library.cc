#include "worker/trainer/cuda/testing/cuda_library.h"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>

#include "absl/strings/str_cat.h"

namespace anneal::trainer::cuda::testing {
namespace {
Accelerator* the_accelerator = nullptr;
}  // namespace

bool MachineHasGpu() { return access("/dev/nvidiactl", F_OK) == 0; }

absl::StatusOr<std::unique_ptr<Accelerator>> LoadCudaAccelerator() {
  void* const library = dlopen(kCudaLibrary, RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) return absl::NotFoundError(dlerror());
  const auto make = reinterpret_cast<MakeAcceleratorFunction>(dlsym(library, kMakeCudaAccelerator));
  if (make == nullptr) return absl::NotFoundError(dlerror());
  const AcceleratorOptions options;
  absl::Status status;
  std::unique_ptr<Accelerator> accelerator(make(&options, &status));
  if (!status.ok()) return status;
  return accelerator;
}

int RunTestsOnGpu(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const auto accelerator = LoadCudaAccelerator();
  if (!accelerator.ok()) {
    if (MachineHasGpu()) {
      fprintf(stderr, "%s\n", accelerator.status().ToString().c_str());
      return 1;
    }
    printf("no NVIDIA GPU: nothing was checked\n");
    return kSkipped;
  }
  the_accelerator = accelerator->get();
  printf("on %s\n", the_accelerator->NumericFingerprint().c_str());
  return RUN_ALL_TESTS();
}

Accelerator& TheAccelerator() { return *the_accelerator; }

}  // namespace anneal::trainer::cuda::testing
