#include "common/base/service_manager.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/log.h"

namespace anneal {

ServiceManager ServiceManager::TakeFromEnvironment() {
  constexpr char kVariable[] = "NOTIFY_SOCKET";
  const char* socket = std::getenv(kVariable);
  ServiceManager manager(socket == nullptr ? "" : socket);
  ::unsetenv(kVariable);
  return manager;
}

void ServiceManager::Tell(absl::string_view state) const {
  if (socket_.empty()) return;
  if (absl::Status status = Send(state); !status.ok())
    ANNEAL_LOG(WARNING) << "the service manager was not told" << Field("why", status.message());
}

absl::Status ServiceManager::Send(absl::string_view state) const {
  sockaddr_un address = {.sun_family = AF_UNIX};
  if (socket_.size() >= sizeof(address.sun_path))
    return absl::InvalidArgumentError(absl::StrCat("$NOTIFY_SOCKET is too long: ", socket_));
  std::memcpy(address.sun_path, socket_.data(), socket_.size());
  // An abstract name begins with a zero byte and has no end but the address's length.
  if (socket_[0] == '@') address.sun_path[0] = '\0';
  const socklen_t length = offsetof(sockaddr_un, sun_path) + socket_.size();
  const UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid() || ::sendto(fd.get(), state.data(), state.size(), MSG_NOSIGNAL,
                              reinterpret_cast<const sockaddr*>(&address), length) < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot send ", state, " to ", socket_));
  }
  return absl::OkStatus();
}

}  // namespace anneal
