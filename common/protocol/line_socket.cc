#include "common/protocol/line_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/protocol/messages.h"

namespace anneal::protocol {
namespace {

absl::Status SocketError(absl::string_view action, const std::string& path) {
  const std::string message =
      absl::StrCat("cannot ", action, " ", path, ": ", std::strerror(errno));
  if (errno == ENOENT) return absl::NotFoundError(message);
  if (errno == ECONNREFUSED || errno == EAGAIN) return absl::UnavailableError(message);
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", action, " ", path));
}

// The folder of a socket, held open while its short address is in use.
struct Address {
  UniqueFd folder;
  sockaddr_un sun = {};
};

absl::StatusOr<Address> MakeAddress(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  Address address;
  address.folder = UniqueFd(::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!address.folder.valid()) return SocketError("open the folder", folder);
  const std::string shorter = absl::StrCat("/proc/self/fd/", address.folder.get(), "/", name);
  if (name.empty() || shorter.size() >= sizeof(address.sun.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("not a usable socket name: ", path));
  }
  address.sun.sun_family = AF_UNIX;
  std::memcpy(address.sun.sun_path, shorter.c_str(), shorter.size() + 1);
  return address;
}

absl::StatusOr<UniqueFd> MakeSocket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, "cannot make a Unix socket");
  return fd;
}

}  // namespace

absl::StatusOr<UniqueFd> ListenUnix(const std::string& path) {
  ANNEAL_ASSIGN_OR_RETURN(Address address, MakeAddress(path));
  ANNEAL_ASSIGN_OR_RETURN(UniqueFd fd, MakeSocket());
  ::unlink(path.c_str());
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address.sun), sizeof(address.sun)) != 0) {
    return SocketError("bind the socket", path);
  }
  if (::listen(fd.get(), 4) != 0) return SocketError("listen at", path);
  return fd;
}

absl::StatusOr<UniqueFd> ConnectUnix(const std::string& path) {
  ANNEAL_ASSIGN_OR_RETURN(Address address, MakeAddress(path));
  ANNEAL_ASSIGN_OR_RETURN(UniqueFd fd, MakeSocket());
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address.sun), sizeof(address.sun)) != 0) {
    return SocketError("connect to", path);
  }
  return fd;
}

absl::Status CheckPeerIsSameUser(int fd) {
  ucred peer = {};
  socklen_t size = sizeof(peer);
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return absl::ErrnoToStatus(errno, "cannot learn who is at the other end of a socket");
  }
  if (peer.uid != ::geteuid()) {
    return absl::PermissionDeniedError(absl::StrCat("a process of user ", peer.uid,
                                                    " connected; only user ", ::geteuid(), " may"));
  }
  return absl::OkStatus();
}

LineConnection::LineConnection(UniqueFd fd) : fd_(std::move(fd)) {
  ::fcntl(fd_.get(), F_SETFL, ::fcntl(fd_.get(), F_GETFL) | O_NONBLOCK);
}

void LineConnection::Queue(absl::string_view line) { absl::StrAppend(&out_, line, "\n"); }

absl::Status LineConnection::Flush() {
  size_t sent = 0;
  while (sent < out_.size()) {
    const ssize_t count = ::send(fd_.get(), out_.data() + sent, out_.size() - sent, MSG_NOSIGNAL);
    if (count >= 0) {
      sent += count;
    } else if (errno == EAGAIN) {
      break;
    } else if (errno != EINTR) {
      return absl::UnavailableError(absl::StrCat("the other end is gone: ", std::strerror(errno)));
    }
  }
  out_.erase(0, sent);
  return absl::OkStatus();
}

absl::Status LineConnection::Read(std::vector<std::string>* lines) {
  char buffer[64 << 10];
  const ssize_t count = ::recv(fd_.get(), buffer, sizeof(buffer), 0);
  if (count == 0) return absl::UnavailableError("the other end closed the connection");
  if (count < 0) {
    if (errno == EAGAIN || errno == EINTR) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("the other end is gone: ", std::strerror(errno)));
  }
  absl::string_view rest(buffer, count);
  for (size_t end = rest.find('\n'); end != absl::string_view::npos; end = rest.find('\n')) {
    absl::StrAppend(&in_, rest.substr(0, end));
    lines->push_back(std::move(in_));
    in_.clear();
    rest.remove_prefix(end + 1);
  }
  absl::StrAppend(&in_, rest);
  if (in_.size() > kMaxLineBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a line is longer than ", kMaxLineBytes, " bytes"));
  }
  return absl::OkStatus();
}

}  // namespace anneal::protocol
