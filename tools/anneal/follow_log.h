#pragma once
// Following the log of one process of a job, through restarts of the coordinator and of the job's
// trainers.

#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "tools/anneal/client.h"

namespace anneal::cli {

struct FollowLogOptions {
  // -1 = anneal-prepare.
  int rank = 0;
  // This attempt alone. 0 = from the newest on, each one after it below a line that says so.
  int64_t generation = 0;
  // What is written is for a terminal.
  bool printable = false;
  // Give up when the coordinator could not be reached for so long.
  absl::Duration patience = absl::Minutes(5);
};

// Writes the log of "jobs/{job}" to `out` as it grows, and what it waits for to `notes`. Returns
// when the job, or the attempt, has ended or nobody takes what is written; waits for a job that has
// no trainer yet. NOT_FOUND if a job has ended without such a log; UNAVAILABLE after `patience`;
// any other error of the service at once.
absl::Status FollowLog(Client& client, const std::string& name, const FollowLogOptions& options,
                       std::ostream& out, std::ostream& notes, Clock& clock, Random& random);

}  // namespace anneal::cli
