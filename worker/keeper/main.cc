// anneal-worker: one program, three processes.
//
//   anneal-worker FLAGS            the keeper, what an operator starts
//   anneal-worker daemon FLAGS     the daemon, started by the keeper
//   anneal-worker exec-child ...   a child before it becomes anneal-prepare or anneal-trainer

#include <cstdio>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/file_mode.h"
#include "common/base/log.h"
#include "common/base/log_format.h"
#include "common/base/service_manager.h"
#include "worker/daemon/options.h"
#include "worker/daemon/run_daemon.h"
#include "worker/keeper/child_exec.h"
#include "worker/keeper/keeper.h"
#include "worker/keeper/program_path.h"
#include "worker/supervisor/spawn.h"

namespace {

constexpr char kDaemonMode[] = "daemon";

int RunDaemonProcess(const anneal::WorkerOptions& options) {
  const absl::Status status = anneal::RunDaemon(options, anneal::UniqueFd(anneal::kKeeperFd));
  if (status.ok()) return 0;
  ANNEAL_LOG(ERROR) << "daemon ends" << anneal::Field("why", status.ToString());
  return absl::IsInvalidArgument(status) ? anneal::kExitConfiguration : 1;
}

int RunKeeperProcess(const anneal::WorkerOptions& options, int argc, char** argv) {
  // First of all: what follows hands the environment on.
  const anneal::ServiceManager service_manager = anneal::ServiceManager::TakeFromEnvironment();
  anneal::SetLogContext("keeper", {anneal::Field("worker", options.name)});
  std::map<std::string, std::string> environment = anneal::ReadEnvironment();
  const std::string self = anneal::OwnProgramPath(argv[0], environment["PATH"]);
  anneal::Keeper keeper(
      {.state_dir = options.state_dir,
       // By path and not /proc/self/exe: SIGHUP after an upgrade starts the new program.
       .self = self,
       .daemon_arguments = {argv + 1, argv + argc},
       .environment = std::move(environment),
       .liveness_listen = options.liveness_listen,
       .service_manager = service_manager},
      anneal::Clock::Real());
  return keeper.Run();
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == anneal::kExecChildMode) return anneal::ExecChild(argc, argv);
  const bool is_daemon = mode == kDaemonMode;
  absl::StatusOr<std::optional<anneal::WorkerOptions>> options =
      is_daemon ? anneal::ParseWorkerOptions(argc - 1, argv + 1)
                : anneal::ParseWorkerOptions(argc, argv);
  if (!options.ok()) {
    std::fprintf(stderr, "anneal-worker: %s\n", std::string(options.status().message()).c_str());
    return anneal::kExitConfiguration;
  }
  if (!options->has_value()) return 0;
  if (absl::Status status = anneal::SetUpLogs((*options)->logs); !status.ok()) {
    std::fprintf(stderr, "anneal-worker: %s\n", std::string(status.message()).c_str());
    return anneal::kExitConfiguration;
  }
  anneal::KeepOthersOut();
  return is_daemon ? RunDaemonProcess(**options) : RunKeeperProcess(**options, argc, argv);
}
