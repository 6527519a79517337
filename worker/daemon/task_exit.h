#pragma once
// How a task ended, in the words that reach the user.

#include <string>

#include "absl/status/statusor.h"
#include "anneal/internal/fleet_service.pb.h"
#include "common/protocol/messages.h"
#include "worker/supervisor/run_folder.h"

namespace anneal {

inline constexpr size_t kLogTailBytes = 4096;

// From what the keeper saw and, where it wrote one, the child's own record. A process that was
// killed, or failed without a record, gets status UNKNOWN and a message that says what is known:
// "killed by signal 9 (SIGKILL)".
internal::TaskExit MakeTaskExit(const ProcessEnd& end,
                                const absl::StatusOr<protocol::ExitRecord>& record);

// Replaces what is known of the cause.
void SetCause(const absl::Status& status, internal::TaskExit& exit);

// A task that this worker does not start, and why.
internal::TaskExit MakeRefusal(const absl::Status& status);

// The end of the log, at most kLogTailBytes, from the start of a line and in valid UTF-8. Empty if
// there is no log.
std::string ReadLogTail(const std::string& log_path);

}  // namespace anneal
