#include "common/protocol/child_start.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/protocol/child_channel.h"
#include "common/protocol/line_socket.h"
#include "common/protocol/messages.h"

namespace anneal::protocol {
namespace {

constexpr int kExitUnstarted = 127;  // as a shell's for a command that it cannot run

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

}  // namespace

Json ToJson(const ChildStart& start) {
  return {{"run_dir", start.run_dir},
          {"log_path", start.log_path},
          {"lock_paths", start.lock_paths},
          {"arguments", start.arguments}};
}

absl::StatusOr<ChildStart> ChildStartFromJson(const Json& json) {
  // Keeper and child are of one version, so whatever is wrong is a bug of ours and one message is
  // enough.
  try {
    return ChildStart{.run_dir = json.at("run_dir"),
                      .log_path = json.at("log_path"),
                      .lock_paths = json.at("lock_paths").get<std::vector<std::string>>(),
                      .arguments = json.at("arguments").get<std::vector<std::string>>()};
  } catch (const Json::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat("not the start of a child: ", e.what()));
  }
}

absl::Status EnterRun(const ChildStart& start) {
  for (const std::string& path : start.lock_paths) ANNEAL_RETURN_IF_ERROR(TakeLock(path));
  return WriteToLog(start.log_path);
}

int LeaveUnstarted(const std::string& run_dir, const absl::Status& why) {
  const std::string reason = ReasonOf(why);
  const absl::Status recorded =
      WriteExitRecord(run_dir, {.status_code = static_cast<int>(why.code()),
                                .reason = reason.empty() ? "START_FAILED" : reason,
                                .message = std::string(why.message())});
  ANNEAL_LOG(ERROR) << "child not started" << Field("why", why.message())
                    << Field("recorded", recorded.ToString());
  return kExitUnstarted;
}

std::string FormatChildStart(const ChildStart& start) { return DumpJson(ToJson(start)); }

absl::StatusOr<ChildStart> AwaitChildStart(UniqueFd control) {
  LineConnection connection(std::move(control));
  std::vector<std::string> lines;
  while (lines.empty()) {
    pollfd polled = {connection.fd(), POLLIN, 0};
    ::poll(&polled, 1, -1);
    // The keeper closes its end as soon as it has written: a line that came first counts.
    const absl::Status status = connection.Read(&lines);
    if (lines.empty() && !status.ok()) return status;
  }
  ANNEAL_ASSIGN_OR_RETURN(const Json json,
                          ParseJson(lines[0], {.max_bytes = kMaxLineBytes, .max_depth = 4}));
  return ChildStartFromJson(json);
}

}  // namespace anneal::protocol
