#pragma once
// The daemon's side of the protocol in common/protocol/messages.h, towards one child.

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/protocol/child_channel.h"
#include "common/protocol/line_socket.h"
#include "common/protocol/messages.h"
#include "common/protocol/run_folder_layout.h"

namespace anneal {

// Owned by a Task, used from the daemon's loop only, never blocks: the owner polls fd() and calls
// Serve() when it is ready and from time to time. Everything is level-triggered: after a
// reconnection both sides say all again, so the owner sets what should hold and reads what does,
// and never asks whether there is a connection.
class RankChannel {
 public:
  RankChannel(std::string socket_path, protocol::TaskKey key, protocol::Start start, Clock& clock);

  // Connects if there is no connection (every 50 ms at most; a child needs a moment until it
  // listens), reads, writes. Whether what the child says has changed.
  bool Serve();

  // -1 without a connection.
  int fd() const { return connection_.has_value() ? connection_->fd() : -1; }
  bool wants_to_write() const {
    return connection_.has_value() && connection_->pending_bytes() > 0;
  }
  // Whether the child has said hello on this connection.
  bool greeted() const { return greeted_; }

  // What the child should know. Setting it again to the same value does nothing; an empty address
  // is no news.
  void SetRendezvous(const std::string& address);
  void SetStop(protocol::StopMode mode);

  // What the child said last, on whatever connection.
  const std::string& rendezvous() const { return rendezvous_in_; }
  const protocol::Status& status() const { return status_; }

 private:
  void Connect();
  absl::Status ReadLines();
  absl::Status HandleLine(absl::string_view text);
  absl::Status CheckHello(const protocol::Hello& hello) const;
  // Queues what the child has not been told on this connection.
  void QueueNews();

  const std::string socket_path_;
  const protocol::TaskKey key_;
  const protocol::Start start_;
  Clock& clock_;

  std::optional<protocol::LineConnection> connection_;
  absl::Duration next_attempt_ = -absl::InfiniteDuration();
  bool greeted_ = false;
  // Said on this connection.
  bool told_start_ = false;
  std::string told_rendezvous_;
  protocol::StopMode told_stop_ = protocol::StopMode::kNone;

  std::string rendezvous_out_;
  protocol::StopMode stop_ = protocol::StopMode::kNone;

  bool changed_ = false;
  std::string rendezvous_in_;
  protocol::Status status_;
};

}  // namespace anneal
