#pragma once
// What in the storage root is still wanted: pure.

#include <set>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/lifecycle/job_table.h"

namespace anneal {

// How long things of jobs that have ended are kept, so that the jobs can be retried.
inline constexpr absl::Duration kPreparedTimeToLive = absl::Hours(7 * 24);

// Purpose: answers for each path of the storage root (relative, see common/storage/layout.h)
// whether it may go. Guarded by its caller; the table must outlive it.
//
// What belongs to a job is known by its place, so that a folder that was never entered in the
// catalog counts too: it is wanted for as long as its job could still enter it.
class References {
 public:
  // `resources`: the paths of all files and models that users have.
  References(const JobTable& jobs, std::set<std::string> resources, absl::Time now);

  bool Holds(absl::string_view path) const;

 private:
  bool HoldsCheckpoint(const internal::JobRecord& job, absl::string_view path) const;

  const JobTable& jobs_;
  const absl::Time now_;
  // Exact paths: files, models, committed checkpoints, inputs of live jobs.
  std::set<std::string, std::less<>> paths_;
};

}  // namespace anneal
