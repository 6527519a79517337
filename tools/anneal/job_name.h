#pragma once
// What users may write for a job.

#include <string>

#include "absl/status/statusor.h"
#include "tools/anneal/client.h"

namespace anneal::cli {

// "jobs/{ulid}" for an id (with or without "jobs/"), "@last" (the newest job), a display name, or a
// beginning of an id that only one job has. NOT_FOUND suggests near names; INVALID_ARGUMENT lists
// the jobs that `text` could mean.
absl::StatusOr<std::string> ResolveJobName(Client& client, absl::string_view text);

}  // namespace anneal::cli
