#pragma once
// A whole service on this machine, for one user: what `anneal up` starts and watches.

#include <sys/types.h>

#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/random.h"

namespace anneal::cli {

struct LocalServiceOptions {
  // .anneal is made in it.
  std::string folder;
  int workers = 1;
  int cpu_slots_per_worker = 1;
  // Folders that jobs may name by file:// URIs.
  std::vector<std::string> allowed_roots;
};

// One coordinator and some workers as child processes. Everything lies under .anneal: credentials,
// context.yaml (there while the service is ready), data (catalog), storage (models, data, outputs),
// logs, a state folder per worker, and `lock`.
//
// The children inherit the lock, so a second service cannot start in the folder while any process
// of the first is alive, even when this one was killed. Single-threaded; SIGINT, SIGTERM and
// SIGCHLD must be blocked in all threads (BlockSignals).
class LocalService {
 public:
  LocalService(const LocalServiceOptions& options, std::ostream& out, Clock& clock, Random& random);
  // Stops what still runs.
  ~LocalService();
  LocalService(const LocalService&) = delete;
  LocalService& operator=(const LocalService&) = delete;

  // Call before any thread is started.
  static void BlockSignals();

  // Returns when all workers are ready. FAILED_PRECONDITION if a service runs in the folder;
  // CANCELLED after Ctrl-C; INTERNAL with name and log of a process that ended or did not become
  // ready.
  absl::Status Start();

  // Returns OK when told to stop (SIGINT, SIGTERM), INTERNAL when a process ended by itself. Either
  // way all are stopped.
  absl::Status Supervise();

  // Asks the workers, then the coordinator, to stop, and kills what does not within
  // `kStopPatience`.
  void Stop();

 private:
  struct Process {
    std::string name;
    std::string log_file;
    std::string address_file;
    pid_t pid = 0;
    bool running = false;
  };

  absl::Status MakeFolders();
  absl::Status TakeLock();
  absl::Status MakeCredentials();
  // Makes paths for sockets short enough: state folders are reached through a link in /tmp where
  // they would be too long.
  absl::Status MakeShortFolder();
  absl::Status StartProcess(const std::string& name, std::vector<std::string> arguments);
  absl::Status StartCoordinator();
  absl::Status StartWorker(int index);
  // Of the address file `process` writes when it listens.
  absl::StatusOr<std::string> AwaitAddress(const Process& process, const std::string& which);
  absl::Status AwaitWorkers(const std::string& api_address);
  absl::Status WriteContext(const std::string& api_address);
  absl::Status WriteProcessList() const;
  // Waits for a signal, at most so long. CANCELLED if told to stop, INTERNAL if a process ended.
  absl::Status WaitForTrouble(absl::Duration duration);
  absl::Status CheckProcesses();
  void SignalAndWait(const std::vector<Process*>& processes, int signal);

  std::string PathOf(const std::string& name) const { return folder_ + "/" + name; }

  const LocalServiceOptions options_;
  const std::string folder_;
  std::string short_folder_;  // folder_, or a link to it
  std::ostream& out_;
  Clock& clock_;
  Random& random_;
  int lock_fd_ = -1;
  std::string fleet_address_;
  std::vector<Process> processes_;  // the coordinator first
};

// Stops the service that runs in `folder`/.anneal, wherever it was started. NOT_FOUND if none does.
absl::Status StopLocalService(const std::string& folder, Clock& clock);

}  // namespace anneal::cli
