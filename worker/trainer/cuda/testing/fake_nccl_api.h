#pragma once
// An NcclApi that moves nothing: it records what was asked for and fails, or never ends, where a
// test says so. For tests of NcclCommunicator's handling of failures.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "worker/trainer/cuda/nccl_api.h"

namespace anneal::trainer::cuda::testing {

// What a test sees and sets; outlives the FakeNcclApi that shares it.
struct FakeNccl {
  // Names of the calls in order, "Send 1+4" being four elements to rank 1. Polls are not listed.
  std::vector<std::string> calls;
  std::string id = std::string(sizeof(ncclUniqueId), 'i');  // what GetUniqueId gives
  std::string joined_with;                                  // what CommInit got

  std::string fail_call;  // the call of this name (without arguments) returns `failure`
  ncclResult_t failure = ncclInternalError;
  int polls_until_idle =
      0;  // polls for which NCCL says "in progress" after each call that queues; negative: for ever
  ncclResult_t async_error = ncclSuccess;  // what it says when it is idle
  int polls_until_reached = 0;             // the same for the device
  absl::Status device_error;
  std::function<void()> on_poll;  // called at each poll of either
};

class FakeNcclApi : public NcclApi {
 public:
  explicit FakeNcclApi(FakeNccl& world) : world_(world) {}

  ncclResult_t GetUniqueId(ncclUniqueId* id) override {
    world_.id.copy(id->internal, sizeof(id->internal));
    return Record("GetUniqueId");
  }
  ncclResult_t CommInit(ncclComm_t* communicator, int, const ncclUniqueId& id, int) override {
    world_.joined_with.assign(id.internal, sizeof(id.internal));
    *communicator = reinterpret_cast<ncclComm_t>(this);
    return Queue("CommInit");
  }
  ncclResult_t CommGetAsyncError(ncclComm_t, ncclResult_t* state) override {
    if (world_.on_poll) world_.on_poll();
    const bool idle = idle_in_ == 0;
    if (idle_in_ > 0) --idle_in_;
    *state = idle ? world_.async_error : ncclInProgress;
    return ncclSuccess;
  }
  ncclResult_t CommFinalize(ncclComm_t) override { return Queue("CommFinalize"); }
  ncclResult_t CommDestroy(ncclComm_t) override { return Record("CommDestroy"); }
  ncclResult_t CommAbort(ncclComm_t) override { return Record("CommAbort"); }
  std::string Explain(ncclResult_t result, ncclComm_t) override {
    return "NCCL result " + std::to_string(result);
  }

  ncclResult_t GroupStart() override { return Record("GroupStart"); }
  ncclResult_t GroupEnd() override { return Queue("GroupEnd"); }
  ncclResult_t Send(const void* from, size_t count, ncclDataType_t, int peer, ncclComm_t) override {
    sent_from.push_back(from);
    return Record("Send", " " + std::to_string(peer) + "+" + std::to_string(count));
  }
  ncclResult_t Recv(void* to, size_t count, ncclDataType_t, int peer, ncclComm_t) override {
    received_to.push_back(to);
    return Record("Recv", " " + std::to_string(peer) + "+" + std::to_string(count));
  }
  ncclResult_t AllGather(const void*, void*, size_t count, ncclDataType_t, ncclComm_t) override {
    return Queue("AllGather", " " + std::to_string(count));
  }
  ncclResult_t AllReduceSum(const void*, void*, size_t count, ncclDataType_t, ncclComm_t) override {
    return Queue("AllReduceSum", " " + std::to_string(count));
  }
  ncclResult_t ReduceScatterSum(const void*, void*, size_t count, ncclDataType_t,
                                ncclComm_t) override {
    return Queue("ReduceScatterSum", " " + std::to_string(count));
  }
  ncclResult_t Broadcast(const void*, void*, size_t count, ncclDataType_t, int root,
                         ncclComm_t) override {
    return Queue("Broadcast", " " + std::to_string(root) + "+" + std::to_string(count));
  }

  absl::Status MarkQueue() override {
    reached_in_ = world_.polls_until_reached;
    return absl::OkStatus();
  }
  absl::StatusOr<bool> MarkReached() override {
    if (world_.on_poll) world_.on_poll();
    if (!world_.device_error.ok()) return world_.device_error;
    if (reached_in_ == 0) return true;
    if (reached_in_ > 0) --reached_in_;
    return false;
  }

  std::vector<const void*> sent_from;
  std::vector<void*> received_to;

 private:
  ncclResult_t Record(const std::string& name, const std::string& arguments = "") {
    world_.calls.push_back(name + arguments);
    return name == world_.fail_call ? world_.failure : ncclSuccess;
  }
  // A call that NCCL goes on with in the background.
  ncclResult_t Queue(const std::string& name, const std::string& arguments = "") {
    idle_in_ = world_.polls_until_idle;
    const ncclResult_t result = Record(name, arguments);
    return result == ncclSuccess && idle_in_ != 0 ? ncclInProgress : result;
  }

  FakeNccl& world_;
  int idle_in_ = 0, reached_in_ = 0;
};

}  // namespace anneal::trainer::cuda::testing
