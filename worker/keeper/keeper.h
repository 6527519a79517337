#pragma once
// The small process that outlives the daemon.

#include <csignal>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/service_manager.h"
#include "common/protocol/line_socket.h"
#include "worker/keeper/liveness_listener.h"
#include "worker/keeper/spare_pool.h"
#include "worker/supervisor/keeper_link.h"
#include "worker/supervisor/run_folder.h"

namespace anneal {

// A daemon that ends with this status is not started again unless children run: its configuration
// cannot work.
inline constexpr int kExitConfiguration = 78;  // EX_CONFIG of sysexits.h

// Starts the daemon and, at its request, the children; reaps all; writes how they ended into their
// run folders; starts the daemon again when it dies, so that a new version or a crash of the daemon
// stops no training. Dies last: every process it started dies with it.
//
// It decides nothing else and holds no state that matters: what the daemon must know is in the run
// folders. Single-threaded on purpose: the death signal of children (PR_SET_PDEATHSIG) is tied to
// the thread that started them.
//
//   SIGTERM                  drain: tells the daemon, which leaves with status 0 once the tasks
//                            have ended; then the keeper leaves
//   SIGINT, second SIGTERM   stop now: kills children and daemon, then leaves
//   SIGHUP                   replaces the daemon; children go on
class Keeper {
 public:
  struct Options {
    std::string state_dir;                           // run folders below runs/
    std::string self;                                // path of anneal-worker
    std::vector<std::string> daemon_arguments;       // after "daemon"
    std::map<std::string, std::string> environment;  // of the keeper, handed to every process
    std::string liveness_listen;                     // see LivenessListener; empty = nowhere
    ServiceManager service_manager;
  };
  Keeper(Options options, Clock& clock);

  // Runs until told to stop; returns the exit status.
  int Run();

 private:
  struct Daemon {
    pid_t pid = 0;
    absl::Duration start_time;
    // Absent once the daemon has closed its end.
    std::optional<protocol::LineConnection> connection;
  };

  absl::Status SetUp();
  absl::Status ReceiveSignals();
  // Writes the end of children that died with an earlier keeper.
  absl::Status BuryLostChildren();
  void PollOnce();
  void HandleSignals();
  // Does what the daemon asks.
  void ServeDaemon();
  absl::Status ReadRequests();
  absl::Status HandleLine(absl::string_view text);

  void StartDaemon();
  void DaemonEnded(const ProcessEnd& end);
  absl::Status StartChild(const SpawnRequest& request);
  void ChildEnded(pid_t pid, const RunFolder& folder, const ProcessEnd& end);
  absl::StatusOr<pid_t> StartProcess(const SpawnRequest& request);
  void Reap();
  // Which slots have a spare.
  void TellSpares();
  // Tells the daemon, if there is one; what is lost with a daemon the next one finds in the run
  // folders.
  void Tell(const KeeperLine& line);
  void StopNow();

  const Options options_;
  Clock& clock_;
  UniqueFd state_lock_;
  UniqueFd signals_;  // signalfd
  std::optional<LivenessListener> liveness_;
  std::optional<Daemon> daemon_;
  // Set while there is no daemon: when to start the next one.
  absl::Duration daemon_due_ = absl::ZeroDuration();
  absl::Duration daemon_delay_;
  std::map<pid_t, RunFolder> children_;
  SparePool spares_;  // of the daemon that asked for them
  bool draining_ = false;
  bool stopping_ = false;
  int exit_code_ = 0;
};

}  // namespace anneal
