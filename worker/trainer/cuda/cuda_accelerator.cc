// The factory of libanneal_trainer_cuda.so (worker/trainer/engine/accelerator.h).

#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <arpa/inet.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime_api.h>
#include <ifaddrs.h>
#include <stdlib.h>
#include <torch/version.h>

#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "worker/trainer/cuda/cuda_kernels.h"
#include "worker/trainer/cuda/nccl_communicator.h"
#include "worker/trainer/engine/accelerator.h"

namespace anneal::trainer::cuda {
namespace {

cudaDeviceProp PropertiesOf(c10::DeviceIndex index) {
  cudaDeviceProp properties;
  C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
  return properties;
}

// As nvidia-smi writes it: GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx.
std::string UuidOf(const cudaDeviceProp& properties) {
  const std::string hex = absl::BytesToHexString(
      absl::string_view(properties.uuid.bytes, sizeof(properties.uuid.bytes)));
  return absl::StrCat("GPU-", hex.substr(0, 8), "-", hex.substr(8, 4), "-", hex.substr(12, 4), "-",
                      hex.substr(16, 4), "-", hex.substr(20));
}

absl::StatusOr<c10::DeviceIndex> FindDevice(const std::string& uuid) {
  if (uuid.empty()) return 0;
  const int count = c10::cuda::device_count_ensure_non_zero();
  std::string seen;
  for (c10::DeviceIndex index = 0; index < count; ++index) {
    const std::string candidate = UuidOf(PropertiesOf(index));
    if (absl::EqualsIgnoreCase(candidate, uuid)) return index;
    absl::StrAppend(&seen, seen.empty() ? "" : ", ", candidate);
  }
  return absl::NotFoundError(absl::StrCat("no GPU ", uuid, " on this machine; visible: ", seen));
}

// Sums in fp32 also where the factors are bfloat16: cuBLAS may otherwise add up parts in bfloat16.
void AskForPrecision() {
  at::globalContext().setAllowBF16ReductionCuBLAS(/*allow_reduced_precision=*/false);
}

// One order of additions in cuBLAS, ATen and flash attention. Costs some speed.
void AskForDeterminism() {
  // Read when the first cuBLAS handle is made, which is later than this. An operator's own value
  // wins.
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  // Else ATen fills every new tensor, to show reads of unwritten memory: a second writing of all
  // activations.
  at::globalContext().setDeterministicFillUninitializedMemory(false);
}

// NCCL takes interface names only; the rest of the system speaks of addresses.
absl::StatusOr<std::string> InterfaceOf(const std::string& address) {
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return absl::InternalError("getifaddrs failed");
  const absl::Cleanup free_all = [all] { freeifaddrs(all); };
  for (const ifaddrs* each = all; each != nullptr; each = each->ifa_next) {
    if (each->ifa_addr == nullptr) continue;
    char text[INET6_ADDRSTRLEN] = "";
    if (each->ifa_addr->sa_family == AF_INET) {
      inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(each->ifa_addr)->sin_addr, text,
                sizeof(text));
    } else if (each->ifa_addr->sa_family == AF_INET6) {
      inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6*>(each->ifa_addr)->sin6_addr, text,
                sizeof(text));
    }
    if (address == text) return std::string(each->ifa_name);
  }
  return absl::NotFoundError(absl::StrCat("no network interface has the data address ", address));
}

class CudaAccelerator : public Accelerator {
 public:
  explicit CudaAccelerator(c10::DeviceIndex index)
      : device_(at::kCUDA, index), kernels_(MakeCudaKernels()) {}

  at::Device device() const override { return device_; }
  Kernels& kernels() override { return *kernels_; }

  absl::StatusOr<std::unique_ptr<Communicator>> Connect(const ConnectOptions& options,
                                                        KeyValueStore& store) override {
    ANNEAL_ASSIGN_OR_RETURN(const std::string interface, InterfaceOf(options.data_address));
    // "=" asks for exactly this name. NCCL reads it at its first call in the process. An operator's
    // own value wins.
    setenv("NCCL_SOCKET_IFNAME", absl::StrCat("=", interface).c_str(), /*overwrite=*/0);
    return ConnectNccl({.rank = options.rank,
                        .world_size = options.world_size,
                        .device = device_,
                        .timeout = options.timeout},
                       store, MakeNcclApi(), Clock::Real());
  }

  void Synchronize() override { c10::cuda::device_synchronize(); }

  int64_t PeakTensorBytes() const override {
    using c10::CachingAllocator::StatType;
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(device_.index());
    return stats.allocated_bytes[static_cast<size_t>(StatType::AGGREGATE)].peak;
  }

  std::string NumericFingerprint() const override {
    const cudaDeviceProp properties = PropertiesOf(device_.index());
    int driver = 0, runtime = 0;
    C10_CUDA_CHECK(cudaDriverGetVersion(&driver));
    C10_CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
    return absl::StrCat("cuda ", properties.name, " sm_", properties.major, properties.minor,
                        " multiprocessors ", properties.multiProcessorCount, " driver ", driver,
                        " runtime ", runtime, " torch ", TORCH_VERSION,
                        at::globalContext().deterministicAlgorithms() ? " deterministic" : "");
  }

 private:
  const at::Device device_;
  const std::unique_ptr<Kernels> kernels_;
};

absl::StatusOr<std::unique_ptr<Accelerator>> Make(const AcceleratorOptions& options) {
  // The first tensor starts CUDA, and says in torch's words what is missing.
  (void)at::empty({1}, at::TensorOptions(at::kCUDA));
  ANNEAL_ASSIGN_OR_RETURN(const c10::DeviceIndex index, FindDevice(options.device_uuid));
  c10::cuda::set_device(index);
  AskForPrecision();
  if (options.deterministic) AskForDeterminism();
  return std::make_unique<CudaAccelerator>(index);
}

}  // namespace
}  // namespace anneal::trainer::cuda

extern "C" __attribute__((visibility("default"))) anneal::trainer::Accelerator*
anneal_make_cuda_accelerator(const anneal::trainer::AcceleratorOptions* options,
                             absl::Status* status) {
  std::unique_ptr<anneal::trainer::Accelerator> accelerator;
  *status = anneal::CatchAll("start CUDA", [&]() -> absl::Status {
    try {
      ANNEAL_ASSIGN_OR_RETURN(accelerator, anneal::trainer::cuda::Make(*options));
      return absl::OkStatus();
    } catch (const c10::Error& e) {
      // what() would add a backtrace to a message that is for people.
      return absl::FailedPreconditionError(absl::StrCat(
          "CUDA does not start on this machine: ", e.what_without_backtrace(),
          " Hint: check nvidia-smi on the worker, and that its slots name GPUs it has."));
    }
  });
  return accelerator.release();
}
