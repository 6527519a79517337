#include "tools/bench/load/watchers.h"

#include <utility>

#include "common/rpc/channel.h"

namespace anneal::load {

Watcher::Watcher(const std::shared_ptr<grpc::Channel>& channel, const std::string& key,
                 std::string job, Clock& clock)
    : clock_(clock), stub_(v1::FineTuningService::NewStub(channel)) {
  PrepareCall(context_, key, absl::InfiniteDuration());
  request_.set_name(std::move(job));
}

void Watcher::Start() {
  stub_->async()->WatchJob(&context_, &request_, this);
  StartRead(&incoming_);
  StartCall();
}

void Watcher::OnReadDone(bool ok) {
  if (!ok) return;
  {
    absl::MutexLock lock(&mu_);
    ++messages_;
    opened_ |= incoming_.has_snapshot();
    if (incoming_.event().has_state_change()) {
      state_ = incoming_.event().state_change().to();
      state_at_ = clock_.MonotonicNow();
    }
  }
  StartRead(&incoming_);
}

void Watcher::OnDone(const grpc::Status&) {
  absl::MutexLock lock(&mu_);
  ended_ = true;
}

void Watcher::AwaitEnd() {
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(&ended_));
}

bool Watcher::opened() {
  absl::MutexLock lock(&mu_);
  return opened_;
}

bool Watcher::ended() {
  absl::MutexLock lock(&mu_);
  return ended_;
}

int64_t Watcher::messages() {
  absl::MutexLock lock(&mu_);
  return messages_;
}

absl::Duration Watcher::AwaitState(v1::JobState state, absl::Duration timeout) {
  absl::MutexLock lock(&mu_);
  const auto entered = [&]()
                           ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return ended_ || state_ == state; };
  mu_.AwaitWithTimeout(absl::Condition(&entered), timeout);
  return state_ == state ? state_at_ : absl::InfiniteDuration();
}

}  // namespace anneal::load
