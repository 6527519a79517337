#pragma once
// What surrounds the trainer: the worker daemon at the other end of a socket, or a person at a
// terminal.

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/protocol/child_channel.h"
#include "common/protocol/messages.h"

namespace anneal::trainer {

// Thread-safe. An order to stop NOW never reaches the trainer: the process ends at once
// (stop_watcher.h).
class TrainerHost {
 public:
  virtual ~TrainerHost() = default;

  // How this rank was told to leave at the next step boundary.
  virtual protocol::StopMode stop_requested() = 0;
  virtual void SetPhase(absl::string_view phase) = 0;
  virtual void SetRankReport(const protocol::RankReport& report) = 0;
  // Rank 0 only, in order.
  virtual absl::Status SendReport(const protocol::Report& report) = 0;
};

}  // namespace anneal::trainer
