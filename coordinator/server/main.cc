// anneal-coordinator: takes jobs, decides where they run, and remembers everything. Stops cleanly
// on SIGTERM and SIGINT.

#include <pthread.h>

#include <csignal>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "common/base/file_mode.h"
#include "common/base/log.h"
#include "common/base/log_format.h"
#include "common/base/random.h"
#include "common/base/service_manager.h"
#include "coordinator/server/coordinator.h"
#include "coordinator/server/options.h"

namespace {

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "anneal-coordinator: %s\n", std::string(status.message()).c_str());
  return status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  absl::StatusOr<std::optional<anneal::CoordinatorOptions>> options =
      anneal::ParseCoordinatorOptions(argc, argv);
  if (!options.ok()) return Fail(options.status());
  if (!options->has_value()) return 0;

  if (absl::Status status = anneal::SetUpLogs((*options)->logs); !status.ok()) return Fail(status);
  anneal::KeepOthersOut();
#ifdef NDEBUG
  // Debian's Abseil looks for deadlocks at each lock; the builds with sanitizers keep that.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
#endif
  anneal::SetLogContext("coordinator");
  // Blocked before any thread starts, so that only sigwait below sees them.
  sigset_t stop_signals;
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGTERM);
  sigaddset(&stop_signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop_signals, nullptr);
  signal(SIGPIPE, SIG_IGN);

  const anneal::ServiceManager service_manager = anneal::ServiceManager::TakeFromEnvironment();

  absl::StatusOr<std::unique_ptr<anneal::Coordinator>> coordinator =
      anneal::Coordinator::Start(**options, anneal::Clock::Real(), anneal::Random::Real());
  if (!coordinator.ok()) return Fail(coordinator.status());
  service_manager.Ready();

  int signal_number = 0;
  sigwait(&stop_signals, &signal_number);
  ANNEAL_LOG(INFO) << "stopping" << anneal::Field("signal", signal_number);
  service_manager.Stopping();
  coordinator->reset();
  return 0;
}
