#include "worker/keeper/spare_pool.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/protocol/child_start.h"
#include "worker/keeper/child_exec.h"
#include "worker/supervisor/spawn.h"

namespace anneal {

SparePool::SparePool(std::string self, std::string state_dir,
                     std::map<std::string, std::string> environment)
    : self_(std::move(self)),
      state_dir_(std::move(state_dir)),
      environment_(std::move(environment)) {}

absl::Status SparePool::Start(const SpareRequest& request) {
  const auto present = Find(request.slot);
  if (present != spares_.end()) {
    if (present->second.made_for.image == request.image) return absl::OkStatus();
    Kill(present);
  }
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    return absl::ErrnoToStatus(errno, "cannot make a socket pair for a spare");
  UniqueFd ours(ends[0]), theirs(ends[1]);
  SpawnOptions spawn{.program = self_,
                     .arguments = ChildExecArguments(self_, request.image, /*start=*/nullptr),
                     .environment = environment_,
                     .inherited_fd = theirs.get(),
                     .inherited_as = protocol::kSpareFd};
  for (const auto& [name, value] : request.image.environment) spawn.environment[name] = value;
  spawn.arguments.insert(spawn.arguments.end(), {"spare", "--state-dir", state_dir_});
  ANNEAL_ASSIGN_OR_RETURN(const pid_t pid, Spawn(spawn));
  spares_.emplace(pid, Spare{request, protocol::LineConnection(std::move(ours))});
  ANNEAL_LOG(INFO) << "spare started" << Field("slot", request.slot) << Field("pid", pid);
  return absl::OkStatus();
}

std::optional<pid_t> SparePool::Use(const SpawnRequest& request) {
  const auto spare = Find(request.slot);
  if (spare == spares_.end() || spare->second.made_for.image != request.image ||
      !HasBegunItsProgram(spare->first))
    return std::nullopt;
  protocol::LineConnection& control = spare->second.control;
  control.Queue(protocol::FormatChildStart(request.start));
  // A task is far smaller than a socket's buffer.
  if (!control.Flush().ok() || control.pending_bytes() > 0) {
    Kill(spare);
    return std::nullopt;
  }
  const pid_t pid = spare->first;
  spares_.erase(spare);
  return pid;
}

bool SparePool::HasBegunItsProgram(pid_t pid) const {
  std::error_code error;
  const auto program =
      std::filesystem::read_symlink(absl::StrCat("/proc/", pid, "/exe"), error).string();
  return !error && program != self_;
}

bool SparePool::Ended(pid_t pid) {
  const auto spare = spares_.find(pid);
  if (spare == spares_.end()) return false;
  if (!spare->second.dying) {
    ANNEAL_LOG(WARNING) << "a spare ended unused" << Field("slot", spare->second.made_for.slot)
                        << Field("pid", pid);
  }
  spares_.erase(spare);
  return true;
}

void SparePool::KillAll() {
  for (auto spare = spares_.begin(); spare != spares_.end(); ++spare) Kill(spare);
}

std::vector<std::string> SparePool::slots() const {
  std::vector<std::string> slots;
  for (const auto& [pid, spare] : spares_) {
    if (!spare.dying) slots.push_back(spare.made_for.slot);
  }
  return slots;
}

SparePool::Spares::iterator SparePool::Find(const std::string& slot) {
  return std::find_if(spares_.begin(), spares_.end(), [&slot](const auto& entry) {
    return entry.second.made_for.slot == slot && !entry.second.dying;
  });
}

void SparePool::Kill(Spares::iterator spare) {
  spare->second.dying = true;
  ::kill(-spare->first, SIGKILL);
}

}  // namespace anneal
