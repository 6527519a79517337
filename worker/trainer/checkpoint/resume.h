#pragma once
// Which checkpoint a run goes on from.

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/protocol/messages.h"
#include "worker/trainer/checkpoint/checkpoint_files.h"
#include "worker/trainer/checkpoint/state_range.h"
#include "worker/trainer/collective/communicator.h"

namespace anneal::trainer {

struct ResumePoint {
  std::optional<CheckpointReader> checkpoint;  // none: from the start
  protocol::ResumedReport report;
};

struct ResumeOptions {
  std::string storage_root;
  int64_t total_steps = 0;
  std::string numeric_fingerprint;
  at::Device device = at::kCPU;  // the communicator's
};

// Reads nothing into memory yet. All ranks call it together with the same candidates, newest first,
// and get the same: the first that every rank finds whole, as far as it holds any of that rank's
// `state`. Missing, cut and changed files make a checkpoint damaged; anything else that keeps a
// rank from reading, such as storage that does not answer, is an error, so that nothing good is
// thrown away.
absl::StatusOr<ResumePoint> ChooseCheckpoint(
    const std::vector<protocol::CheckpointReference>& candidates, const ResumeOptions& options,
    const std::vector<StateRange>& state, Communicator& communicator);

}  // namespace anneal::trainer
