#include "worker/keeper/liveness_listener.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace anneal {
namespace {

constexpr size_t kMostConnections = 8;
constexpr char kAnswer[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
    "ok\n";

using AddressInfo = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

absl::StatusOr<AddressInfo> Resolve(absl::string_view host, absl::string_view port) {
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  const addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV,
                          .ai_socktype = SOCK_STREAM};
  addrinfo* found = nullptr;
  const int error =
      ::getaddrinfo(std::string(host).c_str(), std::string(port).c_str(), &hints, &found);
  if (error != 0) {
    return absl::InvalidArgumentError(absl::StrCat(host, ":", port, ": ", ::gai_strerror(error),
                                                   "; expected an address such as 0.0.0.0:7447"));
  }
  return AddressInfo(found, &::freeaddrinfo);
}

int PortOf(int fd) {
  sockaddr_storage bound = {};
  socklen_t size = sizeof(bound);
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size);
  return ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(bound).sin6_port
                                           : reinterpret_cast<sockaddr_in&>(bound).sin_port);
}

// True once the client has said something, or is gone.
bool Answered(int fd) {
  char request[4096];
  const ssize_t size = ::recv(fd, request, sizeof(request), MSG_DONTWAIT);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  // A probe's request is one packet, and what it asks for does not matter. The few bytes of the
  // answer fit into any send buffer.
  if (size > 0) ::send(fd, kAnswer, sizeof(kAnswer) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
  return true;
}

}  // namespace

absl::StatusOr<LivenessListener> LivenessListener::Listen(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos)
    return absl::InvalidArgumentError(absl::StrCat("'", address, "' is not host:port"));
  const std::string host = address.substr(0, colon);
  absl::StatusOr<AddressInfo> info = Resolve(host, address.substr(colon + 1));
  if (!info.ok()) return info.status();
  UniqueFd fd(
      ::socket((*info)->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (!fd.valid() || ::bind(fd.get(), (*info)->ai_addr, (*info)->ai_addrlen) != 0 ||
      ::listen(fd.get(), kMostConnections) != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address, ": ", absl::ErrnoToStatus(errno, "").message()));
  }
  std::string bound = absl::StrCat(host, ":", PortOf(fd.get()));
  return LivenessListener(std::move(fd), std::move(bound));
}

void LivenessListener::AddTo(std::vector<pollfd>& polled) const {
  polled.push_back({fd_.get(), POLLIN, 0});
  for (const UniqueFd& connection : connections_) polled.push_back({connection.get(), POLLIN, 0});
}

void LivenessListener::Serve() {
  std::erase_if(connections_, [](const UniqueFd& fd) { return Answered(fd.get()); });
  while (true) {
    UniqueFd connection(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!connection.valid()) return;
    if (Answered(connection.get())) continue;
    if (connections_.size() == kMostConnections) connections_.pop_front();
    connections_.push_back(std::move(connection));
  }
}

}  // namespace anneal
