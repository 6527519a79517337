#include "common/base/thread.h"

#include <pthread.h>

#include <utility>

namespace anneal {

Thread::Thread(const std::string& name, std::function<void()> body)
    : thread_([name = name.substr(0, 15), body = std::move(body)] {
        ::pthread_setname_np(::pthread_self(), name.c_str());
        body();
      }) {}

Thread& Thread::operator=(Thread&& other) {
  Join();
  thread_ = std::move(other.thread_);
  return *this;
}

void Thread::Join() {
  if (thread_.joinable()) thread_.join();
}

bool Gate::Enter() {
  absl::MutexLock lock(&mu_);
  if (closed_) return false;
  ++inside_;
  return true;
}

void Gate::Leave() {
  absl::MutexLock lock(&mu_);
  --inside_;
}

void Gate::CloseAndWait() {
  absl::MutexLock lock(&mu_);
  closed_ = true;
  auto empty = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return inside_ == 0; };
  mu_.Await(absl::Condition(&empty));
}

}  // namespace anneal
