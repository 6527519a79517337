#pragma once
// How others see that the keeper lives.

#include <poll.h>

#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/file.h"

namespace anneal {

// Answers whatever comes in over HTTP with 200: who gets an answer knows that the keeper's loop
// turns. It says nothing about the daemon, on purpose: an orchestrator that restarts the worker
// because the daemon hangs would kill trainers that are well.
//
// Owned and polled by the keeper's one thread; never blocks. Holds few connections, and a new one
// closes the oldest, so clients that say nothing cost nothing.
class LivenessListener {
 public:
  // `address` is "host:port" with a numeric host, port 0 = any free one. INVALID_ARGUMENT or
  // UNAVAILABLE.
  static absl::StatusOr<LivenessListener> Listen(const std::string& address);

  // "host:port" with the port that is bound.
  const std::string& address() const { return address_; }

  // Adds what to wait for.
  void AddTo(std::vector<pollfd>& polled) const;
  // Accepts and answers what is there.
  void Serve();

 private:
  LivenessListener(UniqueFd fd, std::string address)
      : fd_(std::move(fd)), address_(std::move(address)) {}

  UniqueFd fd_;
  std::string address_;
  std::deque<UniqueFd> connections_;  // oldest first
};

}  // namespace anneal
