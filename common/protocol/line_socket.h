#pragma once
// Lines of text over Unix stream sockets: what the child, the daemon and the keeper speak through.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/file.h"

namespace anneal::protocol {

// Listens at `path`, which may be longer than a socket address holds (107 bytes): the address goes
// through the open folder in /proc/self/fd. A socket left there by a dead process is replaced.
// Non-blocking, close-on-exec.
absl::StatusOr<UniqueFd> ListenUnix(const std::string& path);
// Connects to such a socket. NOT_FOUND or UNAVAILABLE while nobody listens.
absl::StatusOr<UniqueFd> ConnectUnix(const std::string& path);
// PERMISSION_DENIED unless the process at the other end runs as our own user.
absl::Status CheckPeerIsSameUser(int fd);

// One end of a connection: whole lines in, whole lines out, never blocking. Guarded by its owner,
// who polls fd().
class LineConnection {
 public:
  // Takes over a connected stream socket and makes it non-blocking.
  explicit LineConnection(UniqueFd fd);

  int fd() const { return fd_.get(); }

  // Adds `line` (without line end) to what is to be sent. The owner bounds how much waits: see
  // pending_bytes().
  void Queue(absl::string_view line);
  size_t pending_bytes() const { return out_.size(); }
  // Sends what the socket takes now. UNAVAILABLE when the other end is gone.
  absl::Status Flush();

  // Appends to `lines` those completed by one read from the socket. UNAVAILABLE when the other end
  // is gone (the lines that came before are delivered); INVALID_ARGUMENT when a line grows beyond
  // kMaxLineBytes. After an error the connection is of no use.
  absl::Status Read(std::vector<std::string>* lines);

 private:
  UniqueFd fd_;
  std::string in_;  // the beginning of an unfinished line
  std::string out_;
};

}  // namespace anneal::protocol
