#include "worker/keeper/keeper.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/protocol/child_channel.h"
#include "worker/keeper/child_exec.h"
#include "worker/supervisor/spawn.h"

namespace anneal {
namespace {

// Between the starts of a daemon that keeps dying.
constexpr absl::Duration kFirstDelay = absl::Milliseconds(100);
constexpr absl::Duration kLongestDelay = absl::Seconds(10);
// A daemon that lived so long was well.
constexpr absl::Duration kHealthyLife = absl::Seconds(10);

absl::Status MakeFolder(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot make ", path));
}

}  // namespace

Keeper::Keeper(Options options, Clock& clock)
    : options_(std::move(options)),
      clock_(clock),
      daemon_delay_(kFirstDelay),
      spares_(options_.self, options_.state_dir, options_.environment) {}

int Keeper::Run() {
  if (absl::Status status = SetUp(); !status.ok()) {
    ANNEAL_LOG(ERROR) << "cannot start" << Field("why", status.message());
    return 1;
  }
  options_.service_manager.Ready();
  while (!stopping_) PollOnce();
  if (!draining_) options_.service_manager.Stopping();
  StopNow();
  ANNEAL_LOG(INFO) << "all processes have ended" << Field("exit_code", exit_code_);
  return exit_code_;
}

absl::Status Keeper::SetUp() {
  ANNEAL_RETURN_IF_ERROR(MakeFolder(options_.state_dir));
  ANNEAL_RETURN_IF_ERROR(MakeFolder(options_.state_dir + "/runs"));
  const std::string lock_path = options_.state_dir + "/keeper.lock";
  state_lock_ = UniqueFd(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!state_lock_.valid())
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", lock_path));
  if (::flock(state_lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("another worker runs with --state-dir ", options_.state_dir));
  }
  ANNEAL_RETURN_IF_ERROR(BuryLostChildren());
  // Children's children that lose their parent come to us, not to init, and are reaped.
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  ANNEAL_RETURN_IF_ERROR(ReceiveSignals());
  if (!options_.liveness_listen.empty()) {
    ANNEAL_ASSIGN_OR_RETURN(liveness_, LivenessListener::Listen(options_.liveness_listen));
  }
  return absl::OkStatus();
}

absl::Status Keeper::ReceiveSignals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  for (int signal : {SIGCHLD, SIGTERM, SIGINT, SIGHUP}) ::sigaddset(&signals, signal);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  signals_ = UniqueFd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_.valid()) return absl::ErrnoToStatus(errno, "cannot make a signalfd");
  return absl::OkStatus();
}

absl::Status Keeper::BuryLostChildren() {
  ANNEAL_ASSIGN_OR_RETURN(std::vector<RunFolder> folders,
                          RunFolder::List(options_.state_dir + "/runs"));
  for (const RunFolder& folder : folders) {
    const absl::StatusOr<ProcessIdentity> process = folder.ReadProcess();
    if (!process.ok() || folder.ReadEnd().ok()) continue;
    // It was killed when its keeper died; the kernel may not be through with it.
    if (IsAlive(*process)) ::kill(-static_cast<pid_t>(process->pid), SIGKILL);
    ANNEAL_RETURN_IF_ERROR(folder.WriteEnd({.exit_code = -1, .signal = SIGKILL, .lost = true}));
  }
  return absl::OkStatus();
}

void Keeper::PollOnce() {
  const absl::Duration now = clock_.MonotonicNow();
  if (!daemon_.has_value() && now >= daemon_due_) StartDaemon();
  std::vector<pollfd> polled = {{signals_.get(), POLLIN, 0}};
  absl::Duration timeout = absl::InfiniteDuration();
  if (daemon_.has_value() && daemon_->connection.has_value()) {
    const bool waiting = daemon_->connection->pending_bytes() > 0;
    polled.push_back(
        {daemon_->connection->fd(), static_cast<short>(waiting ? POLLIN | POLLOUT : POLLIN), 0});
  }
  const size_t daemon_end = polled.size();
  if (liveness_.has_value()) liveness_->AddTo(polled);
  if (!daemon_.has_value()) timeout = daemon_due_ - now;
  const int timeout_ms = timeout == absl::InfiniteDuration()
                             ? -1
                             : static_cast<int>(absl::ToInt64Milliseconds(timeout)) + 1;
  ::poll(polled.data(), polled.size(), timeout_ms);
  // Requests before signals: the end of a daemon must not overtake what it asked for.
  if (daemon_end > 1 && polled[1].revents != 0) ServeDaemon();
  if (polled[0].revents != 0) HandleSignals();
  if (liveness_.has_value()) liveness_->Serve();
}

void Keeper::HandleSignals() {
  signalfd_siginfo info;
  while (::read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
    switch (info.ssi_signo) {
      case SIGCHLD:
        break;  // several children's signals may have become one; Reap looks for itself
      case SIGHUP:
        ANNEAL_LOG(INFO) << "SIGHUP: replacing the daemon";
        daemon_delay_ = absl::ZeroDuration();
        if (daemon_.has_value()) ::kill(daemon_->pid, SIGKILL);
        break;
      case SIGTERM:
        if (!draining_) {
          ANNEAL_LOG(INFO) << "SIGTERM: draining";
          draining_ = true;
          options_.service_manager.Stopping();
          Tell({.drain = DrainNotice{}});
          break;
        }
        [[fallthrough]];
      default:
        ANNEAL_LOG(INFO) << "stopping now" << Field("signal", ::strsignal(info.ssi_signo));
        stopping_ = true;
    }
  }
  Reap();
}

void Keeper::StartDaemon() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    ANNEAL_LOG(ERROR) << "cannot make a socket pair" << Field("error", std::strerror(errno));
    daemon_due_ = clock_.MonotonicNow() + kLongestDelay;
    return;
  }
  UniqueFd ours(ends[0]), theirs(ends[1]);
  SpawnOptions spawn{.program = options_.self,
                     .arguments = {options_.self, "daemon"},
                     .environment = options_.environment,
                     .inherited_fd = theirs.get(),
                     .inherited_as = kKeeperFd};
  spawn.arguments.insert(spawn.arguments.end(), options_.daemon_arguments.begin(),
                         options_.daemon_arguments.end());
  const absl::StatusOr<pid_t> pid = Spawn(spawn);
  if (!pid.ok()) {
    ANNEAL_LOG(ERROR) << "cannot start the daemon" << Field("why", pid.status().message());
    daemon_due_ = clock_.MonotonicNow() + kLongestDelay;
    return;
  }
  daemon_.emplace(Daemon{*pid, clock_.MonotonicNow(), protocol::LineConnection(std::move(ours))});
  ANNEAL_LOG(INFO) << "daemon started" << Field("pid", *pid);
  if (draining_) Tell({.drain = DrainNotice{}});
}

void Keeper::DaemonEnded(const ProcessEnd& end) {
  ServeDaemon();  // what it asked for last
  const absl::Duration life = clock_.MonotonicNow() - daemon_->start_time;
  daemon_.reset();
  // The next one may be of a newer version, and has its own mind about them.
  spares_.KillAll();
  if (life > kHealthyLife) daemon_delay_ = std::min(daemon_delay_, kFirstDelay);
  daemon_due_ = clock_.MonotonicNow() + daemon_delay_;
  ANNEAL_LOG(INFO) << "daemon ended" << Field("exit_code", end.exit_code)
                   << Field("signal", end.signal)
                   << Field("next_in", absl::FormatDuration(daemon_delay_));
  daemon_delay_ = std::clamp(2 * daemon_delay_, kFirstDelay, kLongestDelay);
  if (draining_ && end.exit_code == 0) stopping_ = true;
  if (end.exit_code == kExitConfiguration && children_.empty()) {
    exit_code_ = kExitConfiguration;
    stopping_ = true;
  }
}

void Keeper::ServeDaemon() {
  // A daemon that closes its end is about to exit, and Reap will see how.
  if (daemon_->connection.has_value() && !ReadRequests().ok()) daemon_->connection.reset();
}

absl::Status Keeper::ReadRequests() {
  std::vector<std::string> lines;
  do {
    lines.clear();
    ANNEAL_RETURN_IF_ERROR(daemon_->connection->Read(&lines));
    for (const std::string& line : lines) {
      if (absl::Status status = HandleLine(line); !status.ok()) {
        ANNEAL_LOG(ERROR) << "request of the daemon refused" << Field("why", status.message());
      }
    }
  } while (!lines.empty());
  return daemon_->connection->Flush();
}

absl::Status Keeper::HandleLine(absl::string_view text) {
  ANNEAL_ASSIGN_OR_RETURN(KeeperLine line, ParseKeeperLine(text));
  if (line.spawn.has_value()) return StartChild(*line.spawn);
  if (line.spare.has_value()) {
    if (stopping_) return absl::CancelledError("the worker is stopping");
    const absl::Status status = spares_.Start(*line.spare);
    TellSpares();
    return status;
  }
  if (line.kill.has_value()) {
    for (const auto& [pid, folder] : children_) {
      if (folder.path() == line.kill->run_dir) ::kill(-pid, line.kill->signal);
    }
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("not a request: ", text.substr(0, 100)));
}

absl::Status Keeper::StartChild(const SpawnRequest& request) {
  if (stopping_) return absl::CancelledError("the worker is stopping");
  ANNEAL_ASSIGN_OR_RETURN(RunFolder folder, RunFolder::FromPath(request.start.run_dir));
  // A new daemon repeats what an old one may have asked for.
  if (folder.ReadProcess().ok() || folder.ReadEnd().ok()) return absl::OkStatus();
  const absl::StatusOr<pid_t> pid = StartProcess(request);
  if (!pid.ok()) {
    ANNEAL_RETURN_IF_ERROR(protocol::WriteExitRecord(
        folder.path(), {.status_code = static_cast<int>(pid.status().code()),
                        .reason = "START_FAILED",
                        .message = std::string(pid.status().message())}));
    ANNEAL_RETURN_IF_ERROR(folder.WriteEnd({.exit_code = 127}));
    Tell({.changed = ChangedNotice{}});
    ANNEAL_LOG(ERROR) << "child not started" << TaskFields(folder.key())
                      << Field("why", pid.status().message());
    return absl::OkStatus();
  }
  children_.emplace(*pid, folder);
  ANNEAL_LOG(INFO) << "child started" << TaskFields(folder.key()) << Field("pid", *pid);
  // The child is not reaped yet, so /proc knows it even if it has already ended.
  ANNEAL_ASSIGN_OR_RETURN(ProcessIdentity process, IdentifyProcess(*pid));
  ANNEAL_RETURN_IF_ERROR(folder.WriteProcess(process));
  Tell({.changed = ChangedNotice{}});
  return absl::OkStatus();
}

absl::StatusOr<pid_t> Keeper::StartProcess(const SpawnRequest& request) {
  if (const std::optional<pid_t> spare = spares_.Use(request)) {
    TellSpares();
    return *spare;
  }
  SpawnOptions spawn{.program = options_.self,
                     .arguments = ChildExecArguments(options_.self, request.image, &request.start),
                     .environment = options_.environment};
  for (const auto& [name, value] : request.image.environment) spawn.environment[name] = value;
  return Spawn(spawn);
}

void Keeper::Reap() {
  while (true) {
    siginfo_t info = {};
    if (::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) return;
    const pid_t pid = info.si_pid;
    const auto child = children_.find(pid);
    // What is left of the child's group goes with it. Before the reaping, while no other process
    // can have the number.
    if (child != children_.end()) ::kill(-pid, SIGKILL);
    int wait_status = 0;
    ::waitpid(pid, &wait_status, 0);
    const ProcessEnd end = ProcessEndFromWaitStatus(wait_status);
    if (child != children_.end()) {
      ChildEnded(pid, child->second, end);
      children_.erase(child);
    } else if (spares_.Ended(pid)) {
      TellSpares();
    } else if (daemon_.has_value() && daemon_->pid == pid) {
      DaemonEnded(end);
    }
  }
}

void Keeper::ChildEnded(pid_t pid, const RunFolder& folder, const ProcessEnd& end) {
  ANNEAL_LOG(INFO) << "child ended" << TaskFields(folder.key()) << Field("pid", pid)
                   << Field("exit_code", end.exit_code) << Field("signal", end.signal);
  if (absl::Status status = folder.WriteEnd(end); !status.ok()) {
    // The daemon will find the process gone without a word and say so.
    ANNEAL_LOG(ERROR) << "cannot keep how a child ended" << TaskFields(folder.key())
                      << Field("why", status.message());
  }
  Tell({.changed = ChangedNotice{}});
}

void Keeper::TellSpares() { Tell({.spares = SparesNotice{spares_.slots()}}); }

void Keeper::Tell(const KeeperLine& line) {
  if (!daemon_.has_value() || !daemon_->connection.has_value()) return;
  daemon_->connection->Queue(FormatKeeperLine(line));
  // A failure means that the daemon is dying, and Reap will see it.
  daemon_->connection->Flush().IgnoreError();
}

void Keeper::StopNow() {
  if (daemon_.has_value()) ::kill(daemon_->pid, SIGKILL);
  for (const auto& [pid, folder] : children_) ::kill(-pid, SIGKILL);
  spares_.KillAll();
  while (daemon_.has_value() || !children_.empty() || !spares_.empty()) {
    pollfd polled = {signals_.get(), POLLIN, 0};
    ::poll(&polled, 1, -1);
    HandleSignals();
  }
}

}  // namespace anneal
