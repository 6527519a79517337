#pragma once
// Following a job until it has ended, through broken connections and restarts of the coordinator.

#include <ostream>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "tools/anneal/client.h"
#include "tools/anneal/exit_code.h"

namespace anneal::cli {

struct FollowOptions {
  // Progress goes here; null = silently.
  std::ostream* progress = nullptr;
  // 0 = not a terminal.
  int terminal_width = 0;
  // End, too, when the job waits for ResumeJob in VALIDATED or PAUSED.
  bool until_held = false;
  // Give up when the coordinator could not be reached for so long.
  absl::Duration patience = absl::Minutes(5);
};

struct Followed {
  // As it was last.
  v1::Job job;
  // The user pressed Ctrl-C; the job goes on.
  bool detached = false;
};

// UNAVAILABLE after `patience`; any other error of the service at once.
absl::StatusOr<Followed> FollowJob(Client& client, const std::string& name,
                                   const FollowOptions& options, Clock& clock, Random& random);

// Columns of the terminal behind file descriptor `fd`; 0 if it is none.
int TerminalWidth(int fd);

}  // namespace anneal::cli
