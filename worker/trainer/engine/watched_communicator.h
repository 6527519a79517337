#pragma once
// A communicator that says where it is.

#include "worker/trainer/collective/communicator.h"
#include "worker/trainer/engine/whereabouts.h"

namespace anneal::trainer {

// Passes every call on to `base`, and tells `whereabouts` of it; both must outlive it.
class WatchedCommunicator : public Communicator {
 public:
  WatchedCommunicator(Communicator& base, Whereabouts& whereabouts)
      : base_(base), whereabouts_(whereabouts) {}

  int rank() const override { return base_.rank(); }
  int world_size() const override { return base_.world_size(); }

  absl::Status AllToAll(const at::Tensor& in, at::Tensor& out, absl::string_view tag) override {
    const Call call(whereabouts_, tag);
    return base_.AllToAll(in, out, tag);
  }
  absl::Status AllGather(const at::Tensor& in, at::Tensor& out, absl::string_view tag) override {
    const Call call(whereabouts_, tag);
    return base_.AllGather(in, out, tag);
  }
  absl::Status AllReduceSum(at::Tensor& inout, absl::string_view tag) override {
    const Call call(whereabouts_, tag);
    return base_.AllReduceSum(inout, tag);
  }
  absl::Status ReduceScatterSum(const at::Tensor& in, at::Tensor& out,
                                absl::string_view tag) override {
    const Call call(whereabouts_, tag);
    return base_.ReduceScatterSum(in, out, tag);
  }
  absl::Status Broadcast(at::Tensor& inout, int root, absl::string_view tag) override {
    const Call call(whereabouts_, tag);
    return base_.Broadcast(inout, root, tag);
  }
  absl::Status Barrier(absl::string_view tag) override {
    const Call call(whereabouts_, tag);
    return base_.Barrier(tag);
  }
  void Abort(absl::string_view why) override { base_.Abort(why); }

 private:
  struct Call {
    Call(Whereabouts& whereabouts, absl::string_view tag) : whereabouts(whereabouts) {
      whereabouts.BeginCollective(tag);
    }
    ~Call() { whereabouts.EndCollective(); }
    Whereabouts& whereabouts;
  };

  Communicator& base_;
  Whereabouts& whereabouts_;
};

}  // namespace anneal::trainer
