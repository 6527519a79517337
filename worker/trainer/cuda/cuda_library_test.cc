// The library that brings CUDA into the trainer: it loads anywhere, registers torch's CUDA
// kernels, and says in plain words when there is no driver.

#include <gmock/gmock.h>

#include <fstream>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "common/base/status_matchers.h"
#include "worker/trainer/cuda/testing/cuda_library.h"

namespace anneal::trainer::cuda {
namespace {

using anneal::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;

// Names of the shared libraries of torch, NVIDIA and ours in this process.
std::set<std::string> Libraries() {
  std::set<std::string> names;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const std::string name = line.substr(line.rfind('/') + 1);
    for (const char* prefix : {"libtorch", "libanneal", "libnccl", "libcublas"}) {
      if (absl::StartsWith(name, prefix)) names.insert(name);
    }
  }
  return names;
}

// One test, because a library cannot be unloaded between two.
TEST(CudaLibraryTest, LoadsOnDemandAndSaysWhetherThereIsADriver) {
  // A program that links the CPU's torch, as anneal-trainer does, carries no CUDA.
  ASSERT_THAT(Libraries(), ElementsAre("libtorch_cpu.so"));

  const auto accelerator = testing::LoadCudaAccelerator();

  EXPECT_THAT(Libraries(), IsSupersetOf({kCudaLibrary, "libtorch_cuda.so", "libnccl.so.2"}));
  if (testing::MachineHasGpu()) {
    ANNEAL_ASSERT_OK(accelerator);
    EXPECT_TRUE((*accelerator)->device().is_cuda());
    EXPECT_THAT((*accelerator)->NumericFingerprint(), HasSubstr("sm_"));
  } else {
    // torch's words, which only its CUDA half says: the tensor was asked of CUDA, not of a torch
    // without it.
    EXPECT_THAT(accelerator,
                StatusIs(absl::StatusCode::kFailedPrecondition,
                         AllOf(HasSubstr("Found no NVIDIA driver"), HasSubstr("nvidia-smi"))));
  }
}

}  // namespace
}  // namespace anneal::trainer::cuda
