#pragma once
// The keeper's spares: trainers that have loaded their libraries and wait for a task.

#include <sys/types.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/protocol/line_socket.h"
#include "worker/supervisor/keeper_link.h"

namespace anneal {

// At most one spare for each slot. Owned by the keeper, used from its only thread. A spare has no
// run folder, lock, port or log of its own: until it gets a task it writes to the keeper's standard
// error, and it dies with the keeper as every child does.
//
// A spare serves only a request with its own image: what a process has from exec on (program,
// environment, processors) is right because it was right at its start, never because it was mended
// later.
class SparePool {
 public:
  // `self`: path of anneal-worker. `state_dir` is shown in the spares' command lines.
  SparePool(std::string self, std::string state_dir,
            std::map<std::string, std::string> environment);

  // Starts a spare for the slot unless one with this image is there; one with another is ended.
  absl::Status Start(const SpareRequest& request);
  // Hands the task to the slot's spare, and returns its pid: it is the pool's no more. Nothing if
  // there is none that has got so far, or it has another image.
  std::optional<pid_t> Use(const SpawnRequest& request);
  // To be called for each process that was reaped. Whether it was a spare.
  bool Ended(pid_t pid);
  // All are on their way to the end after this.
  void KillAll();

  // That have a spare.
  std::vector<std::string> slots() const;
  // Whether none is left, not even one that is being killed.
  bool empty() const { return spares_.empty(); }

 private:
  struct Spare {
    SpareRequest made_for;
    protocol::LineConnection control;
    bool dying = false;
  };
  using Spares = std::map<pid_t, Spare>;

  // Before, it may still fail to, and could not say so in the task's run folder.
  bool HasBegunItsProgram(pid_t pid) const;
  Spares::iterator Find(const std::string& slot);
  void Kill(Spares::iterator spare);

  const std::string self_;
  const std::string state_dir_;
  const std::map<std::string, std::string> environment_;
  Spares spares_;
};

}  // namespace anneal
