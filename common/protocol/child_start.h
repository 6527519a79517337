#pragma once
// How a child process takes over its task: right after exec, or later if it waited as a spare
// (docs/adr/0007-warm-spares.md).

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file.h"
#include "common/format/json.h"

namespace anneal::protocol {

// What a process is told of its task, beside what it has from exec on. The keeper writes it.
struct ChildStart {
  std::string run_dir;
  std::string log_path;  // gets standard output and error, appended
  std::vector<std::string>
      lock_paths;  // locked for as long as the child lives; one that is taken refuses the start
  std::vector<std::string> arguments;  // of the program, without its name
};
Json ToJson(const ChildStart& start);
// INVALID_ARGUMENT with the member's name.
absl::StatusOr<ChildStart> ChildStartFromJson(const Json& json);

// Takes the locks (flock on descriptors that stay open, also across exec), then writes to the log.
// Call once, before the process does anything of its own. UNAVAILABLE with reason SLOT_BUSY if
// another process holds a lock.
absl::Status EnterRun(const ChildStart& start);
// Leaves an exit record that says why the child never ran its task; returns the exit status.
int LeaveUnstarted(const std::string& run_dir, const absl::Status& why);

// A spare's end of the socket pair with its keeper.
inline constexpr int kSpareFd = 3;

// The keeper's line to a spare, without line end.
std::string FormatChildStart(const ChildStart& start);
// For a spare: waits for its task for as long as it takes, then closes `control`. UNAVAILABLE when
// the keeper has closed its end: the spare is not needed any more.
absl::StatusOr<ChildStart> AwaitChildStart(UniqueFd control);

}  // namespace anneal::protocol
