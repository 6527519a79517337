#include "worker/trainer/engine/stop_watcher.h"

#include <signal.h>
#include <unistd.h>

#include <ctime>
#include <utility>

#include "common/base/thread_stacks.h"

namespace anneal::trainer {
namespace {

constexpr timespec kInterval = {.tv_sec = 0, .tv_nsec = 100'000'000};

sigset_t WatchedSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGUSR1);
  return set;
}

}  // namespace

void StopWatcher::BlockSignals() {
  PrepareThreadStacks();
  const sigset_t set = WatchedSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

StopWatcher::StopWatcher(std::function<bool()> stop_now, std::function<void()> leave)
    : stop_now_(std::move(stop_now)),
      leave_(std::move(leave)),
      thread_("stop", [this] { Watch(); }) {}

StopWatcher::~StopWatcher() {
  done_ = true;
  thread_.Join();
}

void StopWatcher::Watch() {
  const sigset_t set = WatchedSignals();
  while (!done_) {
    const int signal = sigtimedwait(&set, nullptr, &kInterval);
    if (signal == SIGUSR1) WriteThreadStacks(STDERR_FILENO);
    if (signal == SIGTERM || stop_now_()) leave_();
  }
}

}  // namespace anneal::trainer
