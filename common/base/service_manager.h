#pragma once
// What systemd wants to know of a service of Type=notify: sd_notify(3), a datagram to the Unix
// socket that $NOTIFY_SOCKET names. Our own few lines, because libsystemd is a large dependency for
// two words.

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace anneal {

// Owned by main. Thread-safe: every call sends one datagram and keeps nothing.
class ServiceManager {
 public:
  // Of a process that nobody listens to.
  ServiceManager() = default;
  // `socket` is a path, or, with '@' in front, an abstract name. Empty = nobody listens.
  explicit ServiceManager(std::string socket) : socket_(std::move(socket)) {}
  // Takes $NOTIFY_SOCKET out of the environment, so that no child speaks in our name. Call it at
  // the start of main.
  static ServiceManager TakeFromEnvironment();

  // The service does its work from now on.
  void Ready() const { Tell("READY=1"); }
  // It has begun to stop.
  void Stopping() const { Tell("STOPPING=1"); }

 private:
  // A manager that does not listen is logged, and no reason to fail.
  void Tell(absl::string_view state) const;
  absl::Status Send(absl::string_view state) const;

  std::string socket_;
};

}  // namespace anneal
