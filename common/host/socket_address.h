#pragma once
// IP addresses with ports.

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace anneal {

// An IPv4 or IPv6 address and a port, as the socket calls take them.
class SocketAddress {
 public:
  // INVALID_ARGUMENT for what is no IP address: names are not looked up.
  static absl::StatusOr<SocketAddress> Make(const std::string& address, uint16_t port);
  // "10.0.0.1:40000", "[fd00::1]:40000".
  static absl::StatusOr<SocketAddress> Parse(absl::string_view text);
  // Where the socket is bound.
  static SocketAddress OfSocket(int fd);

  int family() const { return storage_.ss_family; }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage_); }
  socklen_t length() const;
  // As Parse takes it.
  std::string ToString() const;

 private:
  sockaddr_storage storage_ = {};
};

}  // namespace anneal
