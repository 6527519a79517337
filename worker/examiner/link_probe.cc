#include "worker/examiner/link_probe.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/host/socket_address.h"

namespace anneal {
namespace {

constexpr size_t kTokenBytes = 32;
constexpr char kWelcome = 'k', kPing = 'p', kStream = 's';
constexpr int kPings = 20;
constexpr size_t kChunkBytes = 1 << 20;
constexpr absl::Duration kStreamFor = absl::Milliseconds(500);
// For one read or write, and for connecting.
constexpr absl::Duration kPatience = absl::Seconds(3);
// Measurements that have come before ours may take so long.
constexpr absl::Duration kQueuePatience = absl::Seconds(20);
// An honest stream has less: 200 Gbit/s for half a second.
constexpr uint64_t kMostBytes = uint64_t{16} << 30;

void SetTimeout(int fd, int option, absl::Duration timeout) {
  const timeval value = absl::ToTimeval(timeout);
  ::setsockopt(fd, SOL_SOCKET, option, &value, sizeof(value));
}

void Prepare(int fd) {
  SetTimeout(fd, SO_RCVTIMEO, kPatience);
  SetTimeout(fd, SO_SNDTIMEO, kPatience);
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

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

// Takes the stream, and says how much it was.
absl::Status AnswerStream(int fd) {
  std::vector<char> chunk(kChunkBytes);
  uint64_t count = 0;
  while (true) {
    ANNEAL_ASSIGN_OR_RETURN(const size_t have, ReadUpTo(fd, chunk.data(), chunk.size()));
    count += have;
    if (have < chunk.size()) break;
    if (count > kMostBytes) return absl::ResourceExhaustedError("an endless stream");
  }
  char answer[sizeof(count)];
  for (size_t i = 0; i < sizeof(count); ++i) answer[i] = static_cast<char>(count >> (8 * i));
  return WriteAll(fd, {answer, sizeof(answer)});
}

absl::Status Answer(int fd, const std::string& token) {
  Prepare(fd);
  char shown[kTokenBytes];
  ANNEAL_RETURN_IF_ERROR(ReadAll(fd, shown, sizeof(shown)));
  if (token != absl::string_view(shown, sizeof(shown)))
    return absl::UnauthenticatedError("another token");
  ANNEAL_RETURN_IF_ERROR(WriteAll(fd, {&kWelcome, 1}));
  char order = 0;
  for (int i = 0; i <= kPings; ++i) {
    ANNEAL_RETURN_IF_ERROR(ReadAll(fd, &order, 1));
    if (order != kPing) break;
    ANNEAL_RETURN_IF_ERROR(WriteAll(fd, {&order, 1}));
  }
  return order == kStream ? AnswerStream(fd) : absl::InvalidArgumentError("no such order");
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

absl::StatusOr<absl::Duration> Ping(int fd, Clock& clock) {
  absl::Duration shortest = absl::InfiniteDuration();
  for (int i = 0; i < kPings; ++i) {
    const absl::Duration start = clock.MonotonicNow();
    char answer = 0;
    ANNEAL_RETURN_IF_ERROR(WriteAll(fd, {&kPing, 1}));
    ANNEAL_RETURN_IF_ERROR(ReadAll(fd, &answer, 1));
    shortest = std::min(shortest, clock.MonotonicNow() - start);
  }
  return shortest;
}

// Bytes a second.
absl::StatusOr<double> Stream(int fd, Clock& clock) {
  const std::string chunk(kChunkBytes, 'x');
  ANNEAL_RETURN_IF_ERROR(WriteAll(fd, {&kStream, 1}));
  const absl::Duration start = clock.MonotonicNow();
  uint64_t sent = 0;
  while (sent == 0 || (clock.MonotonicNow() - start < kStreamFor && sent < kMostBytes)) {
    ANNEAL_RETURN_IF_ERROR(WriteAll(fd, chunk));
    sent += chunk.size();
  }
  ::shutdown(fd, SHUT_WR);
  char answer[sizeof(uint64_t)];
  ANNEAL_RETURN_IF_ERROR(ReadAll(fd, answer, sizeof(answer)));
  const absl::Duration took = clock.MonotonicNow() - start;
  uint64_t arrived = 0;
  for (size_t i = 0; i < sizeof(answer); ++i)
    arrived |= static_cast<uint64_t>(static_cast<unsigned char>(answer[i])) << (8 * i);
  if (arrived != sent)
    return absl::DataLossError(absl::StrCat(arrived, " of ", sent, " bytes have arrived"));
  return static_cast<double>(sent) / std::max(absl::ToDoubleSeconds(took), 1e-9);
}

}  // namespace

absl::StatusOr<std::unique_ptr<LinkListener>> LinkListener::Start(const std::string& address,
                                                                  absl::string_view token) {
  if (token.size() != kTokenBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a token of ", token.size(), " bytes, expected ", kTokenBytes));
  }
  ANNEAL_ASSIGN_OR_RETURN(const SocketAddress any_port, SocketAddress::Make(address, 0));
  UniqueFd fd(::socket(any_port.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return Failure("make a socket");
  if (::bind(fd.get(), any_port.get(), any_port.length()) != 0 ||
      ::listen(fd.get(), SOMAXCONN) != 0) {
    return Failure(absl::StrCat("listen at ", address));
  }
  const std::string bound = SocketAddress::OfSocket(fd.get()).ToString();
  return std::unique_ptr<LinkListener>(new LinkListener(std::move(fd), bound, token));
}

LinkListener::LinkListener(UniqueFd listener, std::string address, absl::string_view token)
    : listener_(std::move(listener)),
      address_(std::move(address)),
      token_(token),
      thread_("links", [this] { Serve(); }) {}

LinkListener::~LinkListener() {
  {
    absl::MutexLock lock(&mu_);
    closing_ = true;
    // Both calls wake the thread wherever it waits.
    ::shutdown(listener_.get(), SHUT_RDWR);
    if (connection_ >= 0) ::shutdown(connection_, SHUT_RDWR);
  }
  thread_.Join();
}

void LinkListener::Serve() {
  while (true) {
    const UniqueFd connection(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    {
      absl::MutexLock lock(&mu_);
      if (closing_) return;
      connection_ = connection.get();
    }
    // What goes wrong is seen, and told, by the one that measures.
    if (connection.valid()) Answer(connection.get(), token_).IgnoreError();
    absl::MutexLock lock(&mu_);
    connection_ = -1;
  }
}

absl::StatusOr<LinkMeasurement> MeasureLink(const std::string& own_address,
                                            absl::string_view listener, absl::string_view token,
                                            Clock& clock) {
  ANNEAL_ASSIGN_OR_RETURN(const SocketAddress to, SocketAddress::Parse(listener));
  ANNEAL_ASSIGN_OR_RETURN(const SocketAddress from, SocketAddress::Make(own_address, 0));
  ANNEAL_ASSIGN_OR_RETURN(const UniqueFd fd, Connect(from, to));
  ANNEAL_RETURN_IF_ERROR(WriteAll(fd.get(), token));
  SetTimeout(fd.get(), SO_RCVTIMEO, kQueuePatience);
  char welcome = 0;
  ANNEAL_RETURN_IF_ERROR(ReadAll(fd.get(), &welcome, 1));
  if (welcome != kWelcome) return absl::UnauthenticatedError("somebody else listens there");
  SetTimeout(fd.get(), SO_RCVTIMEO, kPatience);
  ANNEAL_ASSIGN_OR_RETURN(const absl::Duration round_trip, Ping(fd.get(), clock));
  ANNEAL_ASSIGN_OR_RETURN(const double bytes_per_second, Stream(fd.get(), clock));
  return LinkMeasurement{.bytes_per_second = bytes_per_second,
                         .round_trip_seconds = absl::ToDoubleSeconds(round_trip)};
}

}  // namespace anneal
