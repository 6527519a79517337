#pragma once
// GPU collectives between processes: NCCL, called directly rather than through c10d, so that every
// wait has our deadline and a failure ends in a Status instead of a watchdog thread that kills the
// process.

#include <c10/core/Device.h>

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "worker/trainer/collective/communicator.h"
#include "worker/trainer/collective/key_value_store.h"
#include "worker/trainer/cuda/nccl_api.h"

namespace anneal::trainer::cuda {

struct NcclOptions {
  int rank = 0;
  int world_size = 2;
  at::Device device = at::kCPU;                // where tensors are; a CUDA device but for tests
  absl::Duration timeout = absl::Minutes(10);  // of joining, and of each call
};

// Joins the others: rank 0 makes NCCL's id and passes it on through `store`. Returns when all are
// connected. `clock` must outlive the communicator; `store` is not used any more.
//
// Calls go to the device's current stream and return when the device has done them. They wait by
// polling, not by blocking in CUDA or NCCL, because only so can a lost peer, the deadline or Abort
// end the wait. On any failure the NCCL communicator is aborted, which also frees the device from
// the kernel that waits for a peer; codes are DEADLINE_EXCEEDED, ABORTED (by Abort), INTERNAL
// (CUDA, or wrong use) and UNAVAILABLE (all else).
absl::StatusOr<std::unique_ptr<Communicator>> ConnectNccl(const NcclOptions& options,
                                                          KeyValueStore& store,
                                                          std::unique_ptr<NcclApi> api,
                                                          Clock& clock);

}  // namespace anneal::trainer::cuda
