#include "worker/supervisor/rank_channel.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace anneal {

using protocol::Line;
using protocol::StopMode;

namespace {
constexpr absl::Duration kAttemptInterval = absl::Milliseconds(50);
}  // namespace

RankChannel::RankChannel(std::string socket_path, protocol::TaskKey key, protocol::Start start,
                         Clock& clock)
    : socket_path_(std::move(socket_path)),
      key_(std::move(key)),
      start_(std::move(start)),
      clock_(clock) {}

bool RankChannel::Serve() {
  changed_ = false;
  if (!connection_.has_value()) Connect();
  if (!connection_.has_value()) return false;
  absl::Status status = ReadLines();
  if (status.ok()) {
    QueueNews();
    status = connection_->Flush();
  }
  if (!status.ok()) {
    // A child that ends closes its socket: how it ended is told elsewhere, so this is no warning
    // unless it said nonsense.
    if (!absl::IsUnavailable(status)) {
      ANNEAL_LOG(WARNING) << "cannot talk with a child" << TaskFields(key_)
                          << Field("why", status.message());
    }
    connection_.reset();
    greeted_ = false;
  }
  return changed_;
}

void RankChannel::SetRendezvous(const std::string& address) {
  if (!address.empty()) rendezvous_out_ = address;
}
void RankChannel::SetStop(StopMode mode) { stop_ = std::max(stop_, mode); }

void RankChannel::Connect() {
  const absl::Duration now = clock_.MonotonicNow();
  if (now < next_attempt_) return;
  next_attempt_ = now + kAttemptInterval;
  absl::StatusOr<UniqueFd> fd = protocol::ConnectUnix(socket_path_);
  if (!fd.ok()) return;  // not listening yet, or gone: the keeper tells
  if (absl::Status status = protocol::CheckPeerIsSameUser(fd->get()); !status.ok()) {
    ANNEAL_LOG(ERROR) << "not talking with a child" << TaskFields(key_)
                      << Field("why", status.message());
    return;
  }
  connection_.emplace(*std::move(fd));
  told_start_ = false;
  told_rendezvous_.clear();
  told_stop_ = StopMode::kNone;
}

absl::Status RankChannel::ReadLines() {
  std::vector<std::string> lines;
  const absl::Status status = connection_->Read(&lines);
  for (const std::string& line : lines) ANNEAL_RETURN_IF_ERROR(HandleLine(line));
  return status;
}

absl::Status RankChannel::HandleLine(absl::string_view text) {
  ANNEAL_ASSIGN_OR_RETURN(Line line, protocol::ParseLine(text));
  if (line.hello.has_value()) {
    ANNEAL_RETURN_IF_ERROR(CheckHello(*line.hello));
    changed_ = changed_ || !greeted_;
    greeted_ = true;
  } else if (!greeted_) {
    return absl::InvalidArgumentError("the first line is not hello");
  } else if (line.rendezvous.has_value()) {
    changed_ = changed_ || rendezvous_in_ != line.rendezvous->address;
    rendezvous_in_ = std::move(line.rendezvous->address);
  } else if (line.status.has_value()) {
    changed_ = true;
    status_ = std::move(*line.status);
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("a line that no child sends: ", text.substr(0, 100)));
  }
  return absl::OkStatus();
}

absl::Status RankChannel::CheckHello(const protocol::Hello& hello) const {
  if (hello.version != protocol::kVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the child speaks version ", hello.version,
                                                      " of the protocol, we ", protocol::kVersion));
  }
  if (hello.job != key_.job || hello.generation != key_.generation || hello.rank != key_.rank ||
      hello.kind != TaskKindName(key_.kind)) {
    return absl::FailedPreconditionError(absl::StrCat("the child says it is ", hello.kind, " rank ",
                                                      hello.rank, " of generation ",
                                                      hello.generation, " of job ", hello.job));
  }
  return absl::OkStatus();
}

void RankChannel::QueueNews() {
  if (!greeted_) return;
  if (!told_start_) {
    told_start_ = true;
    connection_->Queue(protocol::FormatLine({.start = start_}));
  }
  if (told_rendezvous_ != rendezvous_out_) {
    told_rendezvous_ = rendezvous_out_;
    connection_->Queue(protocol::FormatLine({.rendezvous = protocol::Rendezvous{rendezvous_out_}}));
  }
  if (told_stop_ != stop_) {
    told_stop_ = stop_;
    connection_->Queue(
        protocol::FormatLine({.stop = protocol::Stop{std::string(StopModeName(stop_))}}));
  }
}

}  // namespace anneal
