#include "tools/anneal/interrupt.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <utility>

#include "common/base/status.h"

namespace anneal::cli {
namespace {

// What the handler writes to; signal handlers can reach nothing but globals.
volatile sig_atomic_t signal_pipe = -1;

void OnSignal(int) {
  const int saved = errno;
  const char byte = 's';
  [[maybe_unused]] const ssize_t written = ::write(signal_pipe, &byte, 1);
  errno = saved;
}

void SetHandler(void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  for (int signal : {SIGINT, SIGTERM}) ::sigaction(signal, &action, nullptr);
}

}  // namespace

InterruptWatch::InterruptWatch(std::function<void()> on_interrupt)
    : on_interrupt_(std::move(on_interrupt)) {
  ANNEAL_CHECK(signal_pipe == -1);
  ANNEAL_CHECK(::pipe2(pipe_, O_CLOEXEC) == 0);
  signal_pipe = pipe_[1];
  thread_ = Thread("interrupt", [this] { Wait(); });
  SetHandler(OnSignal);
}

InterruptWatch::~InterruptWatch() {
  SetHandler(SIG_DFL);
  const char byte = 'e';
  [[maybe_unused]] const ssize_t written = ::write(pipe_[1], &byte, 1);
  thread_.Join();
  signal_pipe = -1;
  ::close(pipe_[0]);
  ::close(pipe_[1]);
}

bool InterruptWatch::interrupted() const {
  absl::MutexLock lock(&mu_);
  return interrupted_;
}

void InterruptWatch::Wait() {
  char byte = 0;
  while (::read(pipe_[0], &byte, 1) < 0 && errno == EINTR) {
  }
  if (byte != 's') return;
  {
    absl::MutexLock lock(&mu_);
    interrupted_ = true;
  }
  on_interrupt_();
}

}  // namespace anneal::cli
