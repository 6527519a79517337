#pragma once
// The daemon's main: makes its parts and wires them.

#include "absl/status/status.h"
#include "common/base/file.h"
#include "worker/daemon/options.h"

namespace anneal {

// Serves until the keeper at the other end of `keeper_fd` is gone or has the worker drained (OK).
// INVALID_ARGUMENT when the options cannot work on this machine.
absl::Status RunDaemon(const WorkerOptions& options, UniqueFd keeper_fd);

}  // namespace anneal
