#include "coordinator/api/transfer_pool.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/status.h"

namespace anneal {

TransferPool::TransferPool(const Options& options) : max_streams_(options.max_streams) {
  for (int i = 0; i < options.threads; ++i)
    threads_.emplace_back(absl::StrCat(options.name, "-", i), [this] { Run(); });
}

TransferPool::~TransferPool() {
  absl::MutexLock lock(&mu_);
  stopping_ = true;
}

absl::StatusOr<TransferPool::Lease> TransferPool::Acquire() {
  absl::MutexLock lock(&mu_);
  if (streams_ == max_streams_) {
    const absl::Status busy = absl::ResourceExhaustedError(absl::StrCat(
        "all ", max_streams_, " transfers that may run at a time are taken; try again"));
    return WithRetryDelay(WithReason(busy, "TOO_MANY_TRANSFERS"), absl::Seconds(1));
  }
  ++streams_;
  return Lease(this);
}

void TransferPool::GiveBack() {
  absl::MutexLock lock(&mu_);
  --streams_;
}

void TransferPool::Post(std::function<void()> task) {
  absl::MutexLock lock(&mu_);
  tasks_.push_back(std::move(task));
}

void TransferPool::Run() {
  const auto awake = [this]()
                         ABSL_SHARED_LOCKS_REQUIRED(mu_) { return stopping_ || !tasks_.empty(); };
  while (true) {
    std::function<void()> task;
    {
      absl::MutexLock lock(&mu_);
      mu_.Await(absl::Condition(&awake));
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace anneal
