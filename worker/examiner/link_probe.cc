#include "worker/examiner/link_probe.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/host/socket_address.h"
#include "worker/examiner/probe_socket.h"

namespace anneal {

using probe::ReadAll;
using probe::ReadUpTo;
using probe::WriteAll;

namespace {

constexpr size_t kTokenBytes = 32;
constexpr char kWelcome = 'k', kPing = 'p', kStream = 's', kBack = 'b', kCollective = 'c';
// Of streams: what they consist of, and the last byte of those that come back.
constexpr char kFiller = 'x', kEnd = 'e';
constexpr int kPings = 20;
constexpr size_t kChunkBytes = 1 << 20;
constexpr absl::Duration kStreamFor = absl::Milliseconds(500);
// Measurements that have come before ours may take so long.
constexpr absl::Duration kQueuePatience = absl::Seconds(20);
// An honest stream has less: 200 Gbit/s for half a second.
constexpr uint64_t kMostBytes = uint64_t{16} << 30;

// Takes the stream, and says how much it was.
absl::Status TakeStream(int fd) {
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

// Bytes that were sent.
absl::StatusOr<uint64_t> SendFor(int fd, absl::Duration duration, Clock& clock) {
  const std::string chunk(kChunkBytes, kFiller);
  const absl::Duration start = clock.MonotonicNow();
  uint64_t sent = 0;
  while (sent == 0 || (clock.MonotonicNow() - start < duration && sent < kMostBytes)) {
    ANNEAL_RETURN_IF_ERROR(WriteAll(fd, chunk));
    sent += chunk.size();
  }
  return sent;
}

absl::Status GiveStream(int fd) {
  ANNEAL_RETURN_IF_ERROR(SendFor(fd, kStreamFor, Clock::Real()).status());
  return WriteAll(fd, {&kEnd, 1});
}

absl::Status Answer(int fd, const std::string& token, CollectiveProbe* collectives) {
  probe::Prepare(fd);
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
  switch (order) {
    case kStream:
      return TakeStream(fd);
    case kBack:
      return GiveStream(fd);
    case kCollective:
      if (collectives != nullptr) return collectives->Answer(fd);
      [[fallthrough]];
    default:
      return absl::InvalidArgumentError("no such order");
  }
}

// A connection that a listener has welcomed.
absl::StatusOr<UniqueFd> Open(const std::string& own_address, absl::string_view listener,
                              absl::string_view token) {
  ANNEAL_ASSIGN_OR_RETURN(const SocketAddress to, SocketAddress::Parse(listener));
  ANNEAL_ASSIGN_OR_RETURN(const SocketAddress from, SocketAddress::Make(own_address, 0));
  ANNEAL_ASSIGN_OR_RETURN(UniqueFd fd, probe::Connect(from, to));
  ANNEAL_RETURN_IF_ERROR(WriteAll(fd.get(), token));
  probe::SetReadPatience(fd.get(), kQueuePatience);
  char welcome = 0;
  ANNEAL_RETURN_IF_ERROR(ReadAll(fd.get(), &welcome, 1));
  if (welcome != kWelcome) return absl::UnauthenticatedError("somebody else listens there");
  probe::SetReadPatience(fd.get(), probe::kPatience);
  return fd;
}

double PerSecond(uint64_t bytes, absl::Duration duration) {
  return static_cast<double>(bytes) / std::max(absl::ToDoubleSeconds(duration), 1e-9);
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

// Bytes a second to the other side.
absl::StatusOr<double> StreamThere(int fd, Clock& clock) {
  ANNEAL_RETURN_IF_ERROR(WriteAll(fd, {&kStream, 1}));
  const absl::Duration start = clock.MonotonicNow();
  ANNEAL_ASSIGN_OR_RETURN(const uint64_t sent, SendFor(fd, kStreamFor, clock));
  ::shutdown(fd, SHUT_WR);
  char answer[sizeof(uint64_t)];
  ANNEAL_RETURN_IF_ERROR(ReadAll(fd, answer, sizeof(answer)));
  const absl::Duration took = clock.MonotonicNow() - start;
  uint64_t arrived = 0;
  for (size_t i = 0; i < sizeof(answer); ++i)
    arrived |= static_cast<uint64_t>(static_cast<unsigned char>(answer[i])) << (8 * i);
  if (arrived != sent)
    return absl::DataLossError(absl::StrCat(arrived, " of ", sent, " bytes have arrived"));
  return PerSecond(sent, took);
}

// And from it.
absl::StatusOr<double> StreamBack(int fd, Clock& clock) {
  ANNEAL_RETURN_IF_ERROR(WriteAll(fd, {&kBack, 1}));
  const absl::Duration start = clock.MonotonicNow();
  std::vector<char> chunk(kChunkBytes);
  uint64_t count = 0;
  char last = kFiller;
  while (true) {
    ANNEAL_ASSIGN_OR_RETURN(const size_t have, ReadUpTo(fd, chunk.data(), chunk.size()));
    if (have > 0) last = chunk[have - 1];
    count += have;
    if (have < chunk.size()) break;
    if (count > 2 * kMostBytes) return absl::ResourceExhaustedError("an endless stream");
  }
  const absl::Duration took = clock.MonotonicNow() - start;
  if (last != kEnd) return absl::UnavailableError("the other side has broken its stream off");
  return PerSecond(count, took);
}

}  // namespace

absl::StatusOr<std::unique_ptr<LinkListener>> LinkListener::Start(const std::string& address,
                                                                  absl::string_view token,
                                                                  CollectiveProbe* collectives) {
  if (token.size() != kTokenBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a token of ", token.size(), " bytes, expected ", kTokenBytes));
  }
  ANNEAL_ASSIGN_OR_RETURN(const SocketAddress any_port, SocketAddress::Make(address, 0));
  UniqueFd fd(::socket(any_port.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return probe::Failure("make a socket");
  if (::bind(fd.get(), any_port.get(), any_port.length()) != 0 ||
      ::listen(fd.get(), SOMAXCONN) != 0) {
    return probe::Failure(absl::StrCat("listen at ", address));
  }
  const std::string bound = SocketAddress::OfSocket(fd.get()).ToString();
  return std::unique_ptr<LinkListener>(new LinkListener(std::move(fd), bound, token, collectives));
}

LinkListener::LinkListener(UniqueFd listener, std::string address, absl::string_view token,
                           CollectiveProbe* collectives)
    : listener_(std::move(listener)),
      address_(std::move(address)),
      token_(token),
      collectives_(collectives),
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
    if (connection.valid()) Answer(connection.get(), token_, collectives_).IgnoreError();
    absl::MutexLock lock(&mu_);
    connection_ = -1;
  }
}

absl::StatusOr<LinkMeasurement> MeasureLink(const std::string& own_address,
                                            absl::string_view listener, absl::string_view token,
                                            Clock& clock) {
  LinkMeasurement measured;
  ANNEAL_ASSIGN_OR_RETURN(const UniqueFd there, Open(own_address, listener, token));
  ANNEAL_ASSIGN_OR_RETURN(const absl::Duration round_trip, Ping(there.get(), clock));
  measured.round_trip_seconds = absl::ToDoubleSeconds(round_trip);
  ANNEAL_ASSIGN_OR_RETURN(measured.bytes_per_second, StreamThere(there.get(), clock));
  ANNEAL_ASSIGN_OR_RETURN(const UniqueFd back, Open(own_address, listener, token));
  ANNEAL_ASSIGN_OR_RETURN(measured.back_bytes_per_second, StreamBack(back.get(), clock));
  return measured;
}

absl::StatusOr<std::optional<internal::ExaminationResult::Collective>> MeasureCollective(
    const std::string& own_address, absl::string_view listener, absl::string_view token,
    v1::ResourceSpec::Accelerator accelerator, CollectiveProbe& collectives,
    const std::function<bool()>& cancelled) {
  ANNEAL_ASSIGN_OR_RETURN(const UniqueFd fd, Open(own_address, listener, token));
  ANNEAL_RETURN_IF_ERROR(WriteAll(fd.get(), {&kCollective, 1}));
  return collectives.Measure(fd.get(), accelerator, cancelled);
}

}  // namespace anneal
