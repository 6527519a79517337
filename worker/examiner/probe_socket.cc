#include "worker/examiner/probe_socket.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace anneal::probe {
namespace {

constexpr size_t kMostJsonBytes = 64 << 10;

void SetTimeout(int fd, int option, absl::Duration timeout) {
  const timeval value = absl::ToTimeval(timeout);
  ::setsockopt(fd, SOL_SOCKET, option, &value, sizeof(value));
}

}  // namespace

void Prepare(int fd) {
  SetTimeout(fd, SO_RCVTIMEO, kPatience);
  SetTimeout(fd, SO_SNDTIMEO, kPatience);
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

void SetReadPatience(int fd, absl::Duration patience) { SetTimeout(fd, SO_RCVTIMEO, patience); }

absl::Status Failure(absl::string_view action) {
  if (errno == EAGAIN || errno == EINPROGRESS)
    return absl::DeadlineExceededError(absl::StrCat("cannot ", action, ": no answer in time"));
  return absl::UnavailableError(absl::StrCat("cannot ", action, ": ", std::strerror(errno)));
}

absl::Status WriteAll(int fd, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Failure("send");
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

// Fewer bytes than asked for only at the end.
absl::StatusOr<size_t> ReadUpTo(int fd, char* bytes, size_t count) {
  size_t have = 0;
  while (have < count) {
    const ssize_t n = ::recv(fd, bytes + have, count - have, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Failure("receive");
    if (n == 0) break;
    have += static_cast<size_t>(n);
  }
  return have;
}

absl::Status ReadAll(int fd, char* bytes, size_t count) {
  ANNEAL_ASSIGN_OR_RETURN(const size_t have, ReadUpTo(fd, bytes, count));
  if (have == count) return absl::OkStatus();
  return absl::UnavailableError("the other side has closed the connection");
}

absl::StatusOr<UniqueFd> Connect(const SocketAddress& from, const SocketAddress& to) {
  UniqueFd fd(::socket(to.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return Failure("make a socket");
  Prepare(fd.get());
  if (::bind(fd.get(), from.get(), from.length()) != 0) return Failure("bind the own address");
  if (::connect(fd.get(), to.get(), to.length()) != 0)
    return Failure(absl::StrCat("connect to ", to.ToString()));
  return fd;
}

bool IsClosed(int fd) {
  char byte = 0;
  return ::recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

bool HasInput(int fd) {
  pollfd polled = {fd, POLLIN, 0};
  return ::poll(&polled, 1, 0) > 0;
}

absl::Status WriteJson(int fd, const Json& json) {
  const std::string text = DumpJson(json);
  std::string message;
  for (size_t i = 0; i < sizeof(uint32_t); ++i)
    message.push_back(static_cast<char>(text.size() >> (8 * i)));
  return WriteAll(fd, message + text);
}

absl::StatusOr<Json> ReadJson(int fd) {
  char length[sizeof(uint32_t)];
  ANNEAL_RETURN_IF_ERROR(ReadAll(fd, length, sizeof(length)));
  size_t bytes = 0;
  for (size_t i = 0; i < sizeof(length); ++i)
    bytes |= static_cast<size_t>(static_cast<unsigned char>(length[i])) << (8 * i);
  if (bytes > kMostJsonBytes)
    return absl::InvalidArgumentError(absl::StrCat("a message of ", bytes, " bytes"));
  std::string text(bytes, '\0');
  ANNEAL_RETURN_IF_ERROR(ReadAll(fd, text.data(), text.size()));
  return ParseJson(text, {.max_bytes = kMostJsonBytes, .max_depth = 4});
}

}  // namespace anneal::probe
