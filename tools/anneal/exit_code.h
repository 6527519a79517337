#pragma once
// How the `anneal` command ends; part of its interface (docs/cli.md).

#include "absl/status/status.h"
#include "anneal/v1/job.pb.h"

namespace anneal::cli {

enum ExitCode {
  kOk = 0,
  kFailed = 1,
  kBadInput = 2,
  kCancelled = 3,
  kUnreachable = 4,
  kDenied = 5,
  kUnfit = 6,  // anneal doctor has found something that fails
};

ExitCode ExitCodeOf(const absl::Status& status);

// Of a finished job: SUCCEEDED kOk, CANCELLED kCancelled, FAILED kBadInput if its data was refused,
// else kFailed.
ExitCode ExitCodeOf(const v1::Job& job);

}  // namespace anneal::cli
