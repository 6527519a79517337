#pragma once
// The daemon's end of the socket pair with its keeper.

#include <set>
#include <string>

#include "absl/status/status.h"
#include "common/base/file.h"
#include "common/protocol/line_socket.h"
#include "worker/supervisor/keeper_link.h"

namespace anneal {

// Owned by main, used from the daemon's loop only, never blocks. Answers come as files in run
// folders.
class KeeperClient {
 public:
  explicit KeeperClient(UniqueFd fd) : connection_(std::move(fd)) {}

  void Spawn(const SpawnRequest& request) {
    connection_.Queue(FormatKeeperLine({.spawn = request}));
  }
  void KeepSpare(const SpareRequest& request) {
    connection_.Queue(FormatKeeperLine({.spare = request}));
  }
  void Kill(const KillRequest& request) { connection_.Queue(FormatKeeperLine({.kill = request})); }

  // Sends and receives what it can. UNAVAILABLE when the keeper is gone; then the daemon has
  // nothing left to do.
  absl::Status Serve();
  // Whether the keeper has asked to leave once the tasks have ended.
  bool draining() const { return draining_; }
  // The slots that have a spare.
  const std::set<std::string>& spares() const { return spares_; }

  int fd() const { return connection_.fd(); }
  bool wants_to_write() const { return connection_.pending_bytes() > 0; }

 private:
  protocol::LineConnection connection_;
  bool draining_ = false;
  std::set<std::string> spares_;
};

}  // namespace anneal
