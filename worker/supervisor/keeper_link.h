#pragma once
// What daemon and keeper say to each other: JSON lines over the socket pair that the keeper gives
// the daemon. A new daemon gets a new pair. The keeper's facts are files in run folders; on the
// socket it only says that there is something to read.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/protocol/child_start.h"
#include "common/protocol/line_socket.h"

namespace anneal {

// What a process has from exec on and keeps.
struct ProcessImage {
  std::string program;                             // absolute path
  std::map<std::string, std::string> environment;  // added to the keeper's own
  std::string cpu_list;  // processors to run on (see cpu_list.h); empty = all
  bool operator==(const ProcessImage&) const = default;
};

// Daemon -> keeper: start the child of a run folder. Ignored if the folder has a process.json. The
// spare of `slot` becomes the child if its image is the same; else a new process does.
struct SpawnRequest {
  std::string slot;  // empty = none
  ProcessImage image;
  protocol::ChildStart start;
};
// Daemon -> keeper: have a spare wait for `slot`, in place of one with another image.
struct SpareRequest {
  std::string slot;
  ProcessImage image;
};
// Daemon -> keeper: signal the process group of a run folder's child. Ignored if it has ended.
struct KillRequest {
  std::string run_dir;
  int signal = 0;
};
// Keeper -> daemon: a process.json or end.json in some run folder is new.
struct ChangedNotice {};
// Keeper -> daemon: leave once the tasks have ended.
struct DrainNotice {};
// Keeper -> daemon: the slots that have a spare, whenever they change. A new daemon has none.
struct SparesNotice {
  std::vector<std::string> slots;
};

// Exactly one member is set.
struct KeeperLine {
  std::optional<SpawnRequest> spawn;
  std::optional<SpareRequest> spare;
  std::optional<KillRequest> kill;
  std::optional<ChangedNotice> changed;
  std::optional<DrainNotice> drain;
  std::optional<SparesNotice> spares;
};
std::string FormatKeeperLine(const KeeperLine& line);
absl::StatusOr<KeeperLine> ParseKeeperLine(absl::string_view text);

// The daemon's number for its end of the pair.
inline constexpr int kKeeperFd = 3;

}  // namespace anneal
