#pragma once
// NCCL and the device queue behind one small interface, so that NcclCommunicator's handling of
// failures is tested without a GPU (testing/fake_nccl_api.h). Methods are nccl.h's functions of the
// same names: see there for what they mean. The communicators are non-blocking, so each of them may
// return ncclInProgress.

#include <nccl.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace anneal::trainer::cuda {

// Guarded by its caller.
class NcclApi {
 public:
  virtual ~NcclApi() = default;

  virtual ncclResult_t GetUniqueId(ncclUniqueId* id) = 0;
  // ncclCommInitRankConfig with blocking = 0.
  virtual ncclResult_t CommInit(ncclComm_t* communicator, int world_size, const ncclUniqueId& id,
                                int rank) = 0;
  virtual ncclResult_t CommGetAsyncError(ncclComm_t communicator, ncclResult_t* state) = 0;
  virtual ncclResult_t CommFinalize(ncclComm_t communicator) = 0;
  virtual ncclResult_t CommDestroy(ncclComm_t communicator) = 0;
  virtual ncclResult_t CommAbort(ncclComm_t communicator) = 0;
  // ncclGetErrorString and ncclGetLastError in one line.
  virtual std::string Explain(ncclResult_t result, ncclComm_t communicator) = 0;

  // These queue work on the device's current stream. Counts are elements; sums are ncclSum.
  virtual ncclResult_t GroupStart() = 0;
  virtual ncclResult_t GroupEnd() = 0;
  virtual ncclResult_t Send(const void* from, size_t count, ncclDataType_t type, int peer,
                            ncclComm_t communicator) = 0;
  virtual ncclResult_t Recv(void* to, size_t count, ncclDataType_t type, int peer,
                            ncclComm_t communicator) = 0;
  virtual ncclResult_t AllGather(const void* in, void* out, size_t in_count, ncclDataType_t type,
                                 ncclComm_t communicator) = 0;
  virtual ncclResult_t AllReduceSum(const void* in, void* out, size_t count, ncclDataType_t type,
                                    ncclComm_t communicator) = 0;
  virtual ncclResult_t ReduceScatterSum(const void* in, void* out, size_t out_count,
                                        ncclDataType_t type, ncclComm_t communicator) = 0;
  virtual ncclResult_t Broadcast(const void* in, void* out, size_t count, ncclDataType_t type,
                                 int root, ncclComm_t communicator) = 0;

  // Remembers the end of the queue as it is now, then says whether the device has got there.
  virtual absl::Status MarkQueue() = 0;
  virtual absl::StatusOr<bool> MarkReached() = 0;
};

// libnccl on the device current on the calling thread.
std::unique_ptr<NcclApi> MakeNcclApi();

}  // namespace anneal::trainer::cuda
