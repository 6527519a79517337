#include "worker/prepare/batch_pipeline.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace anneal::prepare {

BatchPipeline::BatchPipeline(int threads, std::function<void(Batch&)> work)
    : work_(std::move(work)) {
  ANNEAL_CHECK(threads >= 1);
  for (int i = 0; i < threads; ++i) {
    threads_.emplace_back(absl::StrCat("prepare-", i), [this] { Run(); });
  }
}

BatchPipeline::~BatchPipeline() {
  absl::MutexLock lock(&mu_);
  closing_ = true;
}

void BatchPipeline::Submit(Batch batch) {
  auto item = std::make_shared<Item>();
  item->batch = std::move(batch);
  order_.push_back(item);
  absl::MutexLock lock(&mu_);
  waiting_.push_back(std::move(item));
}

Batch BatchPipeline::TakeOldest() {
  ANNEAL_CHECK(!order_.empty());
  const std::shared_ptr<Item> item = std::move(order_.front());
  order_.pop_front();
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(&item->done));
  return std::move(item->batch);
}

void BatchPipeline::Run() {
  while (true) {
    std::shared_ptr<Item> item;
    {
      absl::MutexLock lock(&mu_);
      const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
        return closing_ || !waiting_.empty();
      };
      mu_.Await(absl::Condition(&ready));
      if (closing_) return;
      item = std::move(waiting_.front());
      waiting_.pop_front();
    }
    work_(item->batch);
    absl::MutexLock lock(&mu_);
    item->done = true;
  }
}

}  // namespace anneal::prepare
