#include "worker/keeper/child_exec.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/protocol/child_channel.h"
#include "worker/supervisor/cpu_list.h"

namespace anneal {
namespace {

struct ChildOptions {
  int keeper_pid = 0;
  std::string run_dir;
  std::string log_path;
  std::vector<std::string> lock_paths;
  std::string cpu_list;
  char** command = nullptr;  // null-terminated, as execv wants it
};

// Only the keeper calls this mode, so anything unexpected is a bug of ours.
ChildOptions ParseArguments(int argc, char** argv) {
  ChildOptions options;
  for (int i = 2; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--") {
      options.command = argv + i + 1;
      return options;
    }
    if (flag == "--keeper-pid") ANNEAL_CHECK(absl::SimpleAtoi(argv[i + 1], &options.keeper_pid));
    if (flag == "--run-dir") options.run_dir = argv[i + 1];
    if (flag == "--log") options.log_path = argv[i + 1];
    if (flag == "--lock") options.lock_paths.push_back(argv[i + 1]);
    if (flag == "--cpus") options.cpu_list = argv[i + 1];
  }
  ANNEAL_CHECK(options.command != nullptr);
  return options;
}

absl::Status DieWithKeeper(int keeper_pid) {
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
    return absl::ErrnoToStatus(errno, "cannot tie the child to the keeper");
  // The keeper may have died before the call above.
  if (::getppid() != keeper_pid) return absl::AbortedError("the keeper is gone");
  return absl::OkStatus();
}

// Half of the way to certain death: above the keeper and the daemon, below processes that asked for
// more.
void BeFirstVictimOfMemoryPressure() {
  UniqueFd fd(::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  // Not everywhere permitted, and nothing depends on it.
  [[maybe_unused]] ssize_t ignored = ::write(fd.get(), "500", 3);
}

absl::Status TakeLock(const std::string& path) {
  // Without O_CREAT first: in a sticky folder the kernel refuses O_CREAT on another user's file.
  int fd = ::open(path.c_str(), O_RDWR);
  if (fd < 0 && errno == ENOENT) fd = ::open(path.c_str(), O_RDWR | O_CREAT, 0666);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open the lock ", path));
  // The descriptor is left open on purpose, also across exec: the lock lives as long as the process
  // does.
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    return WithReason(absl::UnavailableError(absl::StrCat("another process holds the lock ", path)),
                      "SLOT_BUSY");
  }
  return absl::OkStatus();
}

// Near its GPU a trainer waits less for memory and for the device. Slower is better than not at
// all, so a failure is only logged.
void RunOn(const std::string& cpu_list) {
  if (cpu_list.empty()) return;
  const absl::StatusOr<std::vector<int>> processors = ParseCpuList(cpu_list);
  ANNEAL_CHECK(processors.ok());
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int processor : *processors) CPU_SET(processor, &set);
  if (::sched_setaffinity(0, sizeof(set), &set) != 0) {
    ANNEAL_LOG(WARNING) << "runs on any processor" << Field("wanted", cpu_list)
                        << Field("error", std::strerror(errno));
  }
}

absl::Status WriteToLog(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  if (error)
    return absl::UnavailableError(
        absl::StrCat("cannot make the folder of ", path, ": ", error.message()));
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open the log ", path));
  ::dup2(fd.get(), STDOUT_FILENO);
  ::dup2(fd.get(), STDERR_FILENO);
  return absl::OkStatus();
}

absl::Status Exec(const ChildOptions& options) {
  ANNEAL_RETURN_IF_ERROR(DieWithKeeper(options.keeper_pid));
  BeFirstVictimOfMemoryPressure();
  for (const std::string& path : options.lock_paths) ANNEAL_RETURN_IF_ERROR(TakeLock(path));
  ANNEAL_RETURN_IF_ERROR(WriteToLog(options.log_path));
  RunOn(options.cpu_list);
  ::signal(SIGPIPE, SIG_IGN);  // stays ignored across exec
  ::execv(options.command[0], options.command);
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot start ", options.command[0]));
}

}  // namespace

int ExecChild(int argc, char** argv) {
  const ChildOptions options = ParseArguments(argc, argv);
  const absl::Status status = Exec(options);
  const std::string reason = ReasonOf(status);
  const absl::Status recorded = protocol::WriteExitRecord(
      options.run_dir, {.status_code = static_cast<int>(status.code()),
                        .reason = reason.empty() ? "START_FAILED" : reason,
                        .message = std::string(status.message())});
  ANNEAL_LOG(ERROR) << "child not started" << Field("why", status.message())
                    << Field("recorded", recorded.ToString());
  return 127;
}

}  // namespace anneal
