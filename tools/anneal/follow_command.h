#pragma once
// What `submit --follow`, `watch` and `wait` do, and what they print at the end.

#include <string>

#include "absl/status/statusor.h"
#include "tools/anneal/command_line.h"

namespace anneal::cli {

struct FollowStyle {
  // Live progress, on standard output or, with --output json, on standard error.
  bool show_progress = true;
  // The job waits for ResumeJob after its data was checked; that is as far as it gets.
  bool until_held = false;
};

// Follows the job to its end and prints what came of it. Ctrl-C detaches (kOk) and says how to
// return.
absl::StatusOr<ExitCode> FollowAndReport(CommandLine& line, const std::string& job_name,
                                         const FollowStyle& style);

}  // namespace anneal::cli
