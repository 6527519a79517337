#include "worker/trainer/cuda/nccl_api.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include "absl/strings/str_cat.h"

namespace anneal::trainer::cuda {
namespace {

cudaStream_t Stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

absl::Status CudaError(absl::string_view what, cudaError_t error) {
  return absl::InternalError(
      absl::StrCat(what, ": ", cudaGetErrorName(error), ": ", cudaGetErrorString(error)));
}

class RealNcclApi : public NcclApi {
 public:
  ~RealNcclApi() override {
    if (mark_ != nullptr) (void)cudaEventDestroy(mark_);
  }

  ncclResult_t GetUniqueId(ncclUniqueId* id) override { return ncclGetUniqueId(id); }
  ncclResult_t CommInit(ncclComm_t* communicator, int world_size, const ncclUniqueId& id,
                        int rank) override {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    return ncclCommInitRankConfig(communicator, world_size, id, rank, &config);
  }
  ncclResult_t CommGetAsyncError(ncclComm_t communicator, ncclResult_t* state) override {
    return ncclCommGetAsyncError(communicator, state);
  }
  ncclResult_t CommFinalize(ncclComm_t communicator) override {
    return ncclCommFinalize(communicator);
  }
  ncclResult_t CommDestroy(ncclComm_t communicator) override {
    return ncclCommDestroy(communicator);
  }
  ncclResult_t CommAbort(ncclComm_t communicator) override { return ncclCommAbort(communicator); }
  std::string Explain(ncclResult_t result, ncclComm_t communicator) override {
    const char* const last = ncclGetLastError(communicator);
    return absl::StrCat("NCCL says '", ncclGetErrorString(result), "'",
                        last == nullptr || *last == '\0' ? "" : ", ", last == nullptr ? "" : last);
  }

  ncclResult_t GroupStart() override { return ncclGroupStart(); }
  ncclResult_t GroupEnd() override { return ncclGroupEnd(); }
  ncclResult_t Send(const void* from, size_t count, ncclDataType_t type, int peer,
                    ncclComm_t communicator) override {
    return ncclSend(from, count, type, peer, communicator, Stream());
  }
  ncclResult_t Recv(void* to, size_t count, ncclDataType_t type, int peer,
                    ncclComm_t communicator) override {
    return ncclRecv(to, count, type, peer, communicator, Stream());
  }
  ncclResult_t AllGather(const void* in, void* out, size_t in_count, ncclDataType_t type,
                         ncclComm_t communicator) override {
    return ncclAllGather(in, out, in_count, type, communicator, Stream());
  }
  ncclResult_t AllReduceSum(const void* in, void* out, size_t count, ncclDataType_t type,
                            ncclComm_t communicator) override {
    return ncclAllReduce(in, out, count, type, ncclSum, communicator, Stream());
  }
  ncclResult_t ReduceScatterSum(const void* in, void* out, size_t out_count, ncclDataType_t type,
                                ncclComm_t communicator) override {
    return ncclReduceScatter(in, out, out_count, type, ncclSum, communicator, Stream());
  }
  ncclResult_t Broadcast(const void* in, void* out, size_t count, ncclDataType_t type, int root,
                         ncclComm_t communicator) override {
    return ncclBroadcast(in, out, count, type, root, communicator, Stream());
  }

  absl::Status MarkQueue() override {
    if (mark_ == nullptr) {
      const cudaError_t made = cudaEventCreateWithFlags(&mark_, cudaEventDisableTiming);
      if (made != cudaSuccess) return CudaError("create an event", made);
    }
    const cudaError_t recorded = cudaEventRecord(mark_, Stream());
    return recorded == cudaSuccess ? absl::OkStatus() : CudaError("record an event", recorded);
  }

  absl::StatusOr<bool> MarkReached() override {
    const cudaError_t state = cudaEventQuery(mark_);
    if (state == cudaSuccess) return true;
    if (state != cudaErrorNotReady) return CudaError("wait for the device", state);
    (void)cudaGetLastError();  // "not ready" is also kept as the last error; the next kernel launch
                               // must not find it
    return false;
  }

 private:
  cudaEvent_t mark_ = nullptr;  // made at the first use, when the device is current
};

}  // namespace

std::unique_ptr<NcclApi> MakeNcclApi() { return std::make_unique<RealNcclApi>(); }

}  // namespace anneal::trainer::cuda
