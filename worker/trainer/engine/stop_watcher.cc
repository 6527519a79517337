#include "worker/trainer/engine/stop_watcher.h"

#include <signal.h>

#include <ctime>
#include <utility>

namespace anneal::trainer {
namespace {

constexpr timespec kInterval = {.tv_sec = 0, .tv_nsec = 100'000'000};

sigset_t StopSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

void StopWatcher::BlockSignals() {
  const sigset_t set = StopSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

StopWatcher::StopWatcher(std::function<bool()> stop_now, std::function<void()> leave)
    : stop_now_(std::move(stop_now)), leave_(std::move(leave)), thread_("stop", [this] { Watch(); }) {}

StopWatcher::~StopWatcher() {
  done_ = true;
  thread_.Join();
}

void StopWatcher::Watch() {
  const sigset_t set = StopSignals();
  while (!done_) {
    if (sigtimedwait(&set, nullptr, &kInterval) == SIGTERM || stop_now_()) leave_();
  }
}

}  // namespace anneal::trainer
