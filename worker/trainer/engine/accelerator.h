#pragma once
// What a kind of device brings to the engine: kernels and a way to talk to the other ranks.
// Everything else is the same code.
//
// The CPU's is made by MakeCpuAccelerator (cpu_accelerator.h). CUDA's lives in
// libanneal_trainer_cuda.so, beside torch_cuda, NCCL and own kernels; the program loads it only for
// device "cuda", before any other ATen or c10d call (an earlier call would freeze "no CUDA" for
// good), and never closes it. Its one exported function is kMakeCudaAccelerator. Both sides link
// libanneal_trainer_core.so, so globals exist once and C++ types may cross.

#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/trainer/collective/communicator.h"
#include "worker/trainer/collective/key_value_store.h"
#include "worker/trainer/kernels/kernels.h"

namespace anneal::trainer {

struct AcceleratorOptions {
  std::string device_uuid;    // of the GPU to use; empty = the first visible one
  bool deterministic = true;  // ask the backend's libraries for one order of additions too
};

struct ConnectOptions {
  int rank = 0;
  int world_size = 1;
  std::string data_address;  // the address (not a host name) that collectives bind to on this node
  absl::Duration timeout = absl::Minutes(10);  // of joining, and of each call
};

// Owner: main. One per process. Guarded by its caller.
class Accelerator {
 public:
  virtual ~Accelerator() = default;

  virtual at::Device device() const = 0;
  // Lives as long as the accelerator.
  virtual Kernels& kernels() = 0;
  // Joins the ranks that call this with the same store; returns when all are there. world_size is
  // at least 2. The accelerator and `store` must outlive the communicator.
  virtual absl::StatusOr<std::unique_ptr<Communicator>> Connect(const ConnectOptions& options,
                                                                KeyValueStore& store) = 0;
  // Returns when all work queued on the device is done; phases are timed between two of these.
  virtual void Synchronize() = 0;
  // The most bytes that tensors on the device have held at one time.
  virtual int64_t PeakTensorBytes() const = 0;
  // What the bits of a run depend on besides the job: processor capability, library versions, GPU
  // name. One line.
  virtual std::string NumericFingerprint() const = 0;
};

// Signature of the CUDA library's factory: extern "C", default visibility. On failure returns null
// and sets *status, with a reason and a hint for people ("no NVIDIA driver on this machine"). The
// caller owns the result.
using MakeAcceleratorFunction = Accelerator* (*)(const AcceleratorOptions* options,
                                                 absl::Status* status);
inline constexpr char kCudaLibrary[] = "libanneal_trainer_cuda.so";
inline constexpr char kMakeCudaAccelerator[] = "anneal_make_cuda_accelerator";

}  // namespace anneal::trainer
