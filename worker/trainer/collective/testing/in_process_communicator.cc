#include "worker/trainer/collective/testing/in_process_communicator.h"

#include <ATen/ops/zeros_like.h>

#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/base/status.h"
#include "common/base/thread.h"

namespace anneal::trainer::testing {
namespace {

// Where the threads meet: each brings a tensor, and all see all of them until everyone has taken
// what it wants.
class MeetingPoint {
 public:
  explicit MeetingPoint(int world_size) : brought_(world_size) {}

  // `take` runs when all have brought theirs, on every rank at the same time, with the tensors in
  // rank order.
  absl::Status Meet(int rank, const at::Tensor& bring,
                    const std::function<void(const std::vector<at::Tensor>&)>& take) {
    {
      absl::MutexLock lock(&mu_);
      brought_[rank] = bring;
      ANNEAL_RETURN_IF_ERROR(Arrive());
    }
    take(brought_);  // nobody writes before the second arrival
    absl::MutexLock lock(&mu_);
    return Arrive();
  }

  void Break(absl::Status why) {
    absl::MutexLock lock(&mu_);
    if (broken_.ok()) broken_ = std::move(why);
  }

 private:
  // A round that all have reached has succeeded, even for a rank that wakes only after a faster one
  // broke the next.
  absl::Status Arrive() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (!broken_.ok()) return broken_;
    const int64_t round = round_;
    if (++arrived_ == static_cast<int>(brought_.size())) {
      arrived_ = 0;
      ++round_;
    }
    const auto passed = [this, round]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
      return round_ > round || !broken_.ok();
    };
    mu_.Await(absl::Condition(&passed));
    return round_ > round ? absl::OkStatus() : broken_;
  }

  absl::Mutex mu_;
  std::vector<at::Tensor> brought_;
  int arrived_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t round_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Status broken_ ABSL_GUARDED_BY(mu_);
};

class InProcessCommunicator : public Communicator {
 public:
  InProcessCommunicator(int rank, int world_size, std::shared_ptr<MeetingPoint> point,
                        BeforeCollective before)
      : rank_(rank),
        world_size_(world_size),
        point_(std::move(point)),
        before_(std::move(before)) {}

  int rank() const override { return rank_; }
  int world_size() const override { return world_size_; }

  absl::Status AllToAll(const at::Tensor& in, at::Tensor& out, absl::string_view tag) override {
    return Meet(in, tag, [&](const std::vector<at::Tensor>& ins) {
      for (int r = 0; r < world_size_; ++r) Part(out, r).copy_(Part(ins[r], rank_));
    });
  }
  absl::Status AllGather(const at::Tensor& in, at::Tensor& out, absl::string_view tag) override {
    return Meet(in, tag, [&](const std::vector<at::Tensor>& ins) {
      for (int r = 0; r < world_size_; ++r) {
        at::Tensor part = Part(out, r);
        if (part.data_ptr() != ins[r].data_ptr()) part.copy_(ins[r].view({-1}));
      }
    });
  }
  // From the last rank to the first: an order that no tree has, so that a test which takes FAST for
  // FIXED_ORDER fails.
  absl::Status AllReduceSum(at::Tensor& inout, absl::string_view tag) override {
    at::Tensor sum = at::zeros_like(inout);
    ANNEAL_RETURN_IF_ERROR(Meet(inout, tag, [&](const std::vector<at::Tensor>& ins) {
      for (int r = world_size_ - 1; r >= 0; --r) sum.add_(ins[r]);
    }));
    inout.copy_(sum);
    return absl::OkStatus();
  }
  absl::Status ReduceScatterSum(const at::Tensor& in, at::Tensor& out,
                                absl::string_view tag) override {
    at::Tensor sum = in.clone();
    ANNEAL_RETURN_IF_ERROR(AllReduceSum(sum, tag));
    out.view({-1}).copy_(Part(sum, rank_));
    return absl::OkStatus();
  }
  absl::Status Broadcast(at::Tensor& inout, int root, absl::string_view tag) override {
    return Meet(inout, tag, [&](const std::vector<at::Tensor>& ins) {
      if (rank_ != root) inout.copy_(ins[root]);
    });
  }
  absl::Status Barrier(absl::string_view tag) override {
    return Meet({}, tag, [](const std::vector<at::Tensor>&) {});
  }
  void Abort(absl::string_view why) override { point_->Break(absl::AbortedError(why)); }

 private:
  absl::Status Meet(const at::Tensor& bring, absl::string_view tag,
                    const std::function<void(const std::vector<at::Tensor>&)>& take) {
    if (before_ != nullptr) {
      if (absl::Status status = before_(rank_, tag); !status.ok()) {
        point_->Break(Annotate(status, absl::StrCat("'", tag, "' on rank ", rank_)));
      }
    }
    return point_->Meet(rank_, bring, take);
  }
  at::Tensor Part(const at::Tensor& whole, int index) const {
    const int64_t part = whole.numel() / world_size_;
    return whole.view({-1}).narrow(0, index * part, part);
  }

  const int rank_;
  const int world_size_;
  const std::shared_ptr<MeetingPoint> point_;
  const BeforeCollective before_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> MakeInProcessWorld(int world_size,
                                                              BeforeCollective before) {
  auto point = std::make_shared<MeetingPoint>(world_size);
  std::vector<std::unique_ptr<Communicator>> world;
  for (int rank = 0; rank < world_size; ++rank) {
    world.push_back(std::make_unique<InProcessCommunicator>(rank, world_size, point, before));
  }
  return world;
}

absl::Status RunOnRanks(int world_size, const std::function<absl::Status(Communicator&)>& body,
                        BeforeCollective before) {
  const auto world = MakeInProcessWorld(world_size, std::move(before));
  std::vector<absl::Status> results(world_size);
  {
    std::vector<Thread> threads;
    for (int rank = 0; rank < world_size; ++rank) {
      threads.emplace_back(absl::StrCat("rank-", rank), [&, rank] {
        results[rank] = body(*world[rank]);
        if (!results[rank].ok()) world[rank]->Abort(results[rank].message());
      });
    }
  }
  for (const absl::Status& result : results) ANNEAL_RETURN_IF_ERROR(result);
  return absl::OkStatus();
}

}  // namespace anneal::trainer::testing
