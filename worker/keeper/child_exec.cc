#include "worker/keeper/child_exec.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/log_format.h"
#include "common/base/status.h"
#include "common/protocol/run_folder_layout.h"
#include "worker/supervisor/cpu_list.h"

namespace anneal {
namespace {

struct ChildOptions {
  int keeper_pid = 0;
  std::string cpu_list;
  protocol::ChildStart start;  // no run folder for a spare
  char** command = nullptr;    // null-terminated, as execv wants it
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
    if (flag == "--cpus") options.cpu_list = argv[i + 1];
    if (flag == "--run-dir") options.start.run_dir = argv[i + 1];
    if (flag == "--log") options.start.log_path = argv[i + 1];
    if (flag == "--lock") options.start.lock_paths.push_back(argv[i + 1]);
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

absl::Status Exec(const ChildOptions& options) {
  ANNEAL_RETURN_IF_ERROR(DieWithKeeper(options.keeper_pid));
  BeFirstVictimOfMemoryPressure();
  if (!options.start.run_dir.empty()) ANNEAL_RETURN_IF_ERROR(protocol::EnterRun(options.start));
  RunOn(options.cpu_list);
  ::signal(SIGPIPE, SIG_IGN);  // stays ignored across exec
  ::execv(options.command[0], options.command);
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot start ", options.command[0]));
}

}  // namespace

int ExecChild(int argc, char** argv) {
  const ChildOptions options = ParseArguments(argc, argv);
  ANNEAL_CHECK_OK(SetUpLogsFromEnvironment());
  SetLogContext("exec-child", protocol::TaskFieldsOf(options.start.run_dir));
  const absl::Status status = Exec(options);
  if (!options.start.run_dir.empty())
    return protocol::LeaveUnstarted(options.start.run_dir, status);
  ANNEAL_LOG(ERROR) << "spare not started" << Field("why", status.message());
  return EXIT_FAILURE;
}

std::vector<std::string> ChildExecArguments(const std::string& self, const ProcessImage& image,
                                            const protocol::ChildStart* start) {
  std::vector<std::string> arguments = {self, kExecChildMode, "--keeper-pid",
                                        absl::StrCat(::getpid())};
  const auto add = [&arguments](const char* flag, const std::string& value) {
    arguments.insert(arguments.end(), {flag, value});
  };
  if (!image.cpu_list.empty()) add("--cpus", image.cpu_list);
  if (start != nullptr) {
    add("--run-dir", start->run_dir);
    add("--log", start->log_path);
    for (const std::string& path : start->lock_paths) add("--lock", path);
  }
  add("--", image.program);
  if (start != nullptr)
    arguments.insert(arguments.end(), start->arguments.begin(), start->arguments.end());
  return arguments;
}

}  // namespace anneal
