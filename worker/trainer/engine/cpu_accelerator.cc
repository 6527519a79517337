#include "worker/trainer/engine/cpu_accelerator.h"

#include <ATen/Version.h>

#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "worker/trainer/collective/gloo_communicator.h"
#include "worker/trainer/engine/cpu_memory.h"

namespace anneal::trainer {
namespace {

class CpuAccelerator : public Accelerator {
 public:
  CpuAccelerator() { CountCpuTensors(); }

  at::Device device() const override { return at::kCPU; }
  Kernels& kernels() override { return *kernels_; }

  absl::StatusOr<std::unique_ptr<Communicator>> Connect(const ConnectOptions& options,
                                                        KeyValueStore& store) override {
    return ConnectGloo({options.rank, options.world_size, options.data_address, options.timeout},
                       store);
  }

  void Synchronize() override {}

  int64_t PeakTensorBytes() const override { return PeakCpuTensorBytes(); }

  std::string NumericFingerprint() const override {
    const char* mkl_order = std::getenv("MKL_CBWR");
    return absl::StrCat("cpu ", at::get_cpu_capability(), ", ", at::get_mkl_version(),
                        ", MKL_CBWR=", mkl_order != nullptr ? mkl_order : "unset");
  }

 private:
  const std::unique_ptr<Kernels> kernels_ = MakeCpuKernels();
};

}  // namespace

std::unique_ptr<Accelerator> MakeCpuAccelerator() { return std::make_unique<CpuAccelerator>(); }

}  // namespace anneal::trainer
