#include "coordinator/api/transfer_pool.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/status.h"

namespace anneal {
namespace {

absl::Status Busy(absl::string_view message, absl::string_view reason) {
  return WithRetryDelay(WithReason(absl::ResourceExhaustedError(message), reason),
                        absl::Seconds(1));
}

}  // namespace

TransferPool::TransferPool(const Options& options, Clock& clock)
    : options_(options), clock_(clock) {
  for (int i = 0; i < options.threads; ++i)
    threads_.emplace_back(absl::StrCat(options.name, "-", i), [this] { Run(); });
  threads_.emplace_back(absl::StrCat(options.name, "-idle"), [this] { EndIdleStreams(); });
}

TransferPool::~TransferPool() {
  absl::MutexLock lock(&mu_);
  stopping_ = true;
}

absl::StatusOr<TransferPool::Lease> TransferPool::Acquire(const std::string& project) {
  absl::MutexLock lock(&mu_);
  if (streams_ == options_.max_streams) {
    return Busy(absl::StrCat("all ", options_.max_streams,
                             " transfers that may run at a time are taken; try again"),
                "TOO_MANY_TRANSFERS");
  }
  const auto found = project_streams_.find(project);
  const int open = found == project_streams_.end() ? 0 : found->second;
  if (options_.max_project_streams != 0 && open >= options_.max_project_streams) {
    return Busy(absl::StrCat("project ", project, " has ", open,
                             " transfers under way, as many as it may (--max-project-transfers); "
                             "let some end, and try again"),
                "PROJECT_TRANSFERS");
  }
  ++streams_;
  ++project_streams_[project];
  return Lease(this, project);
}

void TransferPool::GiveBack(const std::string& project) {
  absl::MutexLock lock(&mu_);
  --streams_;
  if (--project_streams_[project] == 0) project_streams_.erase(project);
}

void TransferPool::Post(std::function<void()> task) {
  absl::MutexLock lock(&mu_);
  tasks_.push_back(std::move(task));
}

void TransferPool::Watch(std::shared_ptr<TransferStream> stream) {
  absl::MutexLock lock(&mu_);
  watched_.push_back(std::move(stream));
}

void TransferPool::Unwatch(const TransferStream* stream) {
  // Destroyed outside the lock.
  std::shared_ptr<TransferStream> removed;
  absl::MutexLock lock(&mu_);
  const auto found = std::find_if(watched_.begin(), watched_.end(),
                                  [&](const auto& s) { return s.get() == stream; });
  if (found == watched_.end()) return;
  removed = std::move(*found);
  watched_.erase(found);
}

void TransferPool::EndIdleStreams() {
  const absl::Duration every = std::min(absl::Seconds(1), options_.idle_timeout / 4);
  while (true) {
    std::vector<std::shared_ptr<TransferStream>> streams;
    {
      absl::MutexLock lock(&mu_);
      if (clock_.AwaitWithTimeout(&mu_, absl::Condition(&stopping_), every)) return;
      streams = watched_;
    }
    const absl::Duration since = clock_.MonotonicNow() - options_.idle_timeout;
    for (const std::shared_ptr<TransferStream>& stream : streams) stream->EndIfIdle(since);
  }
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
