#include "worker/trainer/cuda/nccl_communicator.h"

#include <ATen/ops/zeros.h>

#include <cstring>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/base/log.h"
#include "common/base/reasons.h"
#include "common/base/status.h"

namespace anneal::trainer::cuda {
namespace {

constexpr char kIdKey[] = "nccl_unique_id";
// Polls without a pause first: most calls end within a few hundred microseconds.
constexpr int kEagerPolls = 1000;
constexpr absl::Duration kPause = absl::Microseconds(50);
// The most a healthy communicator may take to close: its peers may be slow, or gone.
constexpr absl::Duration kFarewell = absl::Seconds(5);

ncclDataType_t TypeOf(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return ncclFloat32;
    case at::kDouble:
      return ncclFloat64;
    case at::kBFloat16:
      return ncclBfloat16;
    case at::kLong:
      return ncclInt64;
    case at::kInt:
      return ncclInt32;
    default:
      ANNEAL_CHECK(tensor.element_size() == 1);
      return ncclUint8;
  }
}

absl::StatusCode CodeOf(ncclResult_t result) {
  switch (result) {
    case ncclUnhandledCudaError:
    case ncclInvalidArgument:
    case ncclInvalidUsage:
      return absl::StatusCode::kInternal;
    default:
      return absl::StatusCode::kUnavailable;
  }
}

bool Accepted(ncclResult_t result) { return result == ncclSuccess || result == ncclInProgress; }

class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(const NcclOptions& options, std::unique_ptr<NcclApi> api, Clock& clock)
      : options_(options), clock_(clock), api_(std::move(api)) {}

  ~NcclCommunicator() override {
    if (communicator_ == nullptr) return;
    const bool finalizing = Accepted(api_->CommFinalize(communicator_));
    if (finalizing && AwaitNccl(clock_.MonotonicNow() + kFarewell).ok()) {
      (void)api_->CommDestroy(communicator_);
    } else {
      (void)api_->CommAbort(communicator_);
    }
  }

  absl::Status Join(KeyValueStore& store) {
    const absl::Duration deadline = clock_.MonotonicNow() + options_.timeout;
    ncclUniqueId id;
    if (rank() == 0) {
      ANNEAL_RETURN_IF_ERROR(Check(api_->GetUniqueId(&id)));
      ANNEAL_RETURN_IF_ERROR(
          store.Set(kIdKey, absl::string_view(id.internal, sizeof(id.internal))));
    } else {
      ANNEAL_ASSIGN_OR_RETURN(const std::string value, store.Get(kIdKey, options_.timeout));
      if (value.size() != sizeof(id.internal)) {
        return absl::InternalError(absl::StrCat("rank 0's NCCL id has ", value.size(), " bytes"));
      }
      memcpy(id.internal, value.data(), sizeof(id.internal));
    }
    ANNEAL_RETURN_IF_ERROR(Check(api_->CommInit(&communicator_, world_size(), id, rank())));
    ANNEAL_RETURN_IF_ERROR(AwaitNccl(deadline));
    barrier_ = at::zeros({1}, at::TensorOptions(options_.device));
    return absl::OkStatus();
  }

  // Joins, or gives the communicator up.
  absl::Status Connect(KeyValueStore& store) {
    const absl::Status joined = CatchAll("", [&] { return Join(store); });
    if (!joined.ok())
      Break(Annotate(joined,
                     absl::StrCat("connect rank ", rank(), " of ", world_size(), " over NCCL")));
    return broken_;
  }

  int rank() const override { return options_.rank; }
  int world_size() const override { return options_.world_size; }

  absl::Status AllToAll(const at::Tensor& in, at::Tensor& out, absl::string_view tag) override {
    CheckDense(in, out);
    ANNEAL_CHECK(in.numel() == out.numel() && in.numel() % world_size() == 0);
    const size_t count = in.numel() / world_size(), bytes = count * in.element_size();
    const ncclDataType_t type = TypeOf(in);
    const char* const from = static_cast<const char*>(in.const_data_ptr());
    char* const to = static_cast<char*>(out.mutable_data_ptr());
    return Run("all-to-all", tag, [&] {
      ncclResult_t result = api_->GroupStart();
      if (!Accepted(result)) return result;
      for (int peer = 0; peer < world_size() && Accepted(result); ++peer) {
        result = api_->Send(from + peer * bytes, count, type, peer, communicator_);
        if (Accepted(result))
          result = api_->Recv(to + peer * bytes, count, type, peer, communicator_);
      }
      // A group that was started must be ended whatever happened in it.
      const ncclResult_t ended = api_->GroupEnd();
      return Accepted(result) ? ended : result;
    });
  }

  absl::Status AllGather(const at::Tensor& in, at::Tensor& out, absl::string_view tag) override {
    CheckDense(in, out);
    ANNEAL_CHECK(out.numel() == in.numel() * world_size());
    return Run("all-gather", tag, [&] {
      return api_->AllGather(in.const_data_ptr(), out.mutable_data_ptr(), in.numel(), TypeOf(in),
                             communicator_);
    });
  }

  absl::Status AllReduceSum(at::Tensor& inout, absl::string_view tag) override {
    CheckDense(inout, inout);
    return Run("all-reduce", tag, [&] {
      return api_->AllReduceSum(inout.const_data_ptr(), inout.mutable_data_ptr(), inout.numel(),
                                TypeOf(inout), communicator_);
    });
  }

  absl::Status ReduceScatterSum(const at::Tensor& in, at::Tensor& out,
                                absl::string_view tag) override {
    CheckDense(in, out);
    ANNEAL_CHECK(in.numel() == out.numel() * world_size());
    return Run("reduce-scatter", tag, [&] {
      return api_->ReduceScatterSum(in.const_data_ptr(), out.mutable_data_ptr(), out.numel(),
                                    TypeOf(in), communicator_);
    });
  }

  absl::Status Broadcast(at::Tensor& inout, int root, absl::string_view tag) override {
    CheckDense(inout, inout);
    return Run("broadcast", tag, [&] {
      return api_->Broadcast(inout.const_data_ptr(), inout.mutable_data_ptr(), inout.numel(),
                             TypeOf(inout), root, communicator_);
    });
  }

  // NCCL has no barrier: a sum of one number each.
  absl::Status Barrier(absl::string_view tag) override { return AllReduceSum(barrier_, tag); }

  // Only leaves a note: the caller's thread is polling and aborts NCCL itself.
  void Abort(absl::string_view why) override {
    absl::MutexLock lock(&mu_);
    if (aborted_.ok()) aborted_ = absl::AbortedError(absl::StrCat("communicator aborted: ", why));
  }

 private:
  void CheckDense(const at::Tensor& in, const at::Tensor& out) const {
    ANNEAL_CHECK(in.is_contiguous() && out.is_contiguous());
    ANNEAL_CHECK(in.device() == options_.device && out.device() == options_.device);
    ANNEAL_CHECK(in.scalar_type() == out.scalar_type());
  }

  // Queues a call, waits until NCCL has taken it and the device has done it.
  absl::Status Run(absl::string_view what, absl::string_view tag,
                   absl::FunctionRef<ncclResult_t()> enqueue) {
    if (!broken_.ok()) return broken_;
    const absl::Status status = [&]() -> absl::Status {
      const absl::Duration deadline = clock_.MonotonicNow() + options_.timeout;
      ANNEAL_RETURN_IF_ERROR(Aborted());
      ANNEAL_RETURN_IF_ERROR(Check(enqueue()));
      ANNEAL_RETURN_IF_ERROR(AwaitNccl(deadline));
      ANNEAL_RETURN_IF_ERROR(api_->MarkQueue());
      return AwaitDevice(deadline);
    }();
    if (!status.ok())
      Break(Annotate(status,
                     absl::StrCat(what, " '", tag, "' on rank ", rank(), " of ", world_size())));
    return broken_;
  }

  void Break(absl::Status why) {
    broken_ = WithReason(std::move(why), kCollectiveFailed);
    if (communicator_ == nullptr) return;
    const ncclResult_t result = api_->CommAbort(std::exchange(communicator_, nullptr));
    if (!Accepted(result))
      ANNEAL_LOG(WARNING) << "NCCL abort failed" << Field("error", api_->Explain(result, nullptr));
  }

  absl::Status Check(ncclResult_t result) {
    if (Accepted(result)) return absl::OkStatus();
    return absl::Status(CodeOf(result), api_->Explain(result, communicator_));
  }

  absl::Status Aborted() {
    absl::MutexLock lock(&mu_);
    return aborted_;
  }

  // Whether NCCL has nothing left to do on the host; its asynchronous error if it has one.
  absl::StatusOr<bool> NcclIdle() {
    ncclResult_t state = ncclSuccess;
    ANNEAL_RETURN_IF_ERROR(Check(api_->CommGetAsyncError(communicator_, &state)));
    ANNEAL_RETURN_IF_ERROR(Check(state));
    return state == ncclSuccess;
  }

  absl::Status AwaitNccl(absl::Duration deadline) {
    return PollUntil(deadline, [&] { return NcclIdle(); });
  }

  absl::Status AwaitDevice(absl::Duration deadline) {
    return PollUntil(deadline, [&]() -> absl::StatusOr<bool> {
      ANNEAL_ASSIGN_OR_RETURN(const bool reached, api_->MarkReached());
      if (!reached)
        ANNEAL_RETURN_IF_ERROR(NcclIdle().status());  // a lost peer shows here, not on the device
      return reached;
    });
  }

  absl::Status PollUntil(absl::Duration deadline, absl::FunctionRef<absl::StatusOr<bool>()> done) {
    for (int64_t polls = 0;; ++polls) {
      ANNEAL_ASSIGN_OR_RETURN(const bool is_done, done());
      if (is_done) return absl::OkStatus();
      ANNEAL_RETURN_IF_ERROR(Aborted());
      if (clock_.MonotonicNow() >= deadline) {
        return absl::DeadlineExceededError(absl::StrCat("the other ranks did not answer within ",
                                                        absl::FormatDuration(options_.timeout)));
      }
      if (polls >= kEagerPolls) clock_.Sleep(kPause);
    }
  }

  const NcclOptions options_;
  Clock& clock_;

  // Caller's thread only.
  const std::unique_ptr<NcclApi> api_;
  ncclComm_t communicator_ = nullptr;  // null before it joined, and after it broke
  absl::Status broken_;
  at::Tensor barrier_;

  absl::Mutex mu_;
  absl::Status aborted_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> ConnectNccl(const NcclOptions& options,
                                                          KeyValueStore& store,
                                                          std::unique_ptr<NcclApi> api,
                                                          Clock& clock) {
  ANNEAL_CHECK(options.rank >= 0 && options.rank < options.world_size);
  auto communicator = std::make_unique<NcclCommunicator>(options, std::move(api), clock);
  ANNEAL_RETURN_IF_ERROR(communicator->Connect(store));
  return communicator;
}

}  // namespace anneal::trainer::cuda
