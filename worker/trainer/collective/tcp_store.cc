#include "worker/trainer/collective/tcp_store.h"

#include <netdb.h>
#include <sys/socket.h>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <cerrno>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/file.h"
#include "common/base/status.h"

namespace anneal::trainer {
namespace {

struct HostPort {
  std::string host;
  uint16_t port = 0;
};

absl::StatusOr<HostPort> SplitAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port) ||
      port < 1 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("rendezvous address '", address, "' is not HOST:PORT"));
  }
  absl::string_view host = absl::string_view(address).substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  return HostPort{std::string(host), static_cast<uint16_t>(port)};
}

std::string JoinAddress(const std::string& host, uint16_t port) {
  return host.find(':') == std::string::npos ? absl::StrCat(host, ":", port)
                                             : absl::StrCat("[", host, "]:", port);
}

// A listening socket on any free port of `host`, and that port.
absl::StatusOr<std::pair<UniqueFd, uint16_t>> Listen(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), "0", &hints, &found); error != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("data address '", host, "': ", gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> info(found, &freeaddrinfo);
  UniqueFd fd(socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, "socket");
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  char port[8];
  if (bind(fd.get(), info->ai_addr, info->ai_addrlen) != 0 || listen(fd.get(), SOMAXCONN) != 0 ||
      getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &size) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("listen on data address ", host));
  }
  ANNEAL_CHECK(getnameinfo(reinterpret_cast<sockaddr*>(&bound), size, nullptr, 0, port,
                           sizeof(port), NI_NUMERICSERV) == 0);
  return std::make_pair(std::move(fd), static_cast<uint16_t>(std::stoi(port)));
}

}  // namespace

struct TcpStore::Impl {
  c10::intrusive_ptr<c10d::TCPStore> store;
};

TcpStore::TcpStore(std::string address, std::unique_ptr<Impl> impl)
    : address_(std::move(address)), impl_(std::move(impl)) {}
TcpStore::~TcpStore() = default;

absl::StatusOr<std::unique_ptr<TcpStore>> TcpStore::Serve(const std::string& bind_address) {
  ANNEAL_ASSIGN_OR_RETURN(auto listening, Listen(bind_address));
  c10d::TCPStoreOptions options;
  options.isServer = true;
  options.waitWorkers = false;
  options.masterListenFd = listening.first.Release();  // the store closes it
  options.port = listening.second;
  auto impl = std::make_unique<Impl>();
  ANNEAL_RETURN_IF_ERROR(CatchAll(absl::StrCat("serve rendezvous on ", bind_address), [&] {
    impl->store = c10::make_intrusive<c10d::TCPStore>(bind_address, options);
    return absl::OkStatus();
  }));
  return std::unique_ptr<TcpStore>(
      new TcpStore(JoinAddress(bind_address, listening.second), std::move(impl)));
}

absl::StatusOr<std::unique_ptr<TcpStore>> TcpStore::Connect(const std::string& address,
                                                            absl::Duration timeout) {
  ANNEAL_ASSIGN_OR_RETURN(const HostPort host_port, SplitAddress(address));
  c10d::TCPStoreOptions options;
  options.port = host_port.port;
  options.timeout = absl::ToChronoMilliseconds(timeout);
  auto impl = std::make_unique<Impl>();
  absl::Status connected = CatchAll("", [&] {
    impl->store = c10::make_intrusive<c10d::TCPStore>(host_port.host, options);
    return absl::OkStatus();
  });
  if (!connected.ok()) {
    return absl::UnavailableError(
        absl::StrCat("connect to rendezvous ", address, connected.message()));
  }
  return std::unique_ptr<TcpStore>(new TcpStore(address, std::move(impl)));
}

absl::Status TcpStore::Set(absl::string_view key, absl::string_view value) {
  return CatchAll(absl::StrCat("set rendezvous key ", key), [&] {
    impl_->store->set(std::string(key), std::vector<uint8_t>(value.begin(), value.end()));
    return absl::OkStatus();
  });
}

absl::StatusOr<std::string> TcpStore::Get(absl::string_view key, absl::Duration timeout) {
  std::string value;
  absl::Status waited = CatchAll("", [&] {
    impl_->store->wait({std::string(key)}, absl::ToChronoMilliseconds(timeout));
    const std::vector<uint8_t> bytes = impl_->store->get(std::string(key));
    value.assign(bytes.begin(), bytes.end());
    return absl::OkStatus();
  });
  if (!waited.ok()) {
    return absl::DeadlineExceededError(
        absl::StrCat("wait for rendezvous key ", key, waited.message()));
  }
  return value;
}

}  // namespace anneal::trainer
