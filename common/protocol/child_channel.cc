#include "common/protocol/child_channel.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace anneal::protocol {
namespace {

// News is not added while so much still waits in the connection.
constexpr size_t kMaxPendingBytes = 64u << 10;

std::string HelloLine(const TaskKey& key) {
  return FormatLine({.hello = Hello{.kind = std::string(TaskKindName(key.kind)),
                                    .pid = ::getpid(),
                                    .job = key.job,
                                    .generation = key.generation,
                                    .rank = key.rank}});
}

std::optional<StopMode> StopModeOf(const Line& line) {
  if (!line.stop.has_value()) return std::nullopt;
  for (StopMode mode : {StopMode::kPause, StopMode::kFinish, StopMode::kNow}) {
    if (line.stop->mode == StopModeName(mode)) return mode;
  }
  return std::nullopt;
}

}  // namespace

absl::string_view StopModeName(StopMode mode) {
  switch (mode) {
    case StopMode::kNone:
      break;
    case StopMode::kPause:
      return "PAUSE";
    case StopMode::kFinish:
      return "FINISH";
    case StopMode::kNow:
      return "NOW";
  }
  ANNEAL_CHECK(false);
  return "";
}

absl::StatusOr<std::unique_ptr<ChildChannel>> ChildChannel::Listen(const std::string& socket_path,
                                                                   Clock& clock) {
  const std::string run_dir = socket_path.substr(0, socket_path.rfind('/'));
  ANNEAL_ASSIGN_OR_RETURN(TaskKey key, ParseTaskName(run_dir.substr(run_dir.rfind('/') + 1)));
  const std::string reports_path = absl::StrCat(run_dir, "/", kReportsName);
  UniqueFd reports(
      ::open(reports_path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600));
  if (!reports.valid()) {
    if (errno == EEXIST)
      return absl::FailedPreconditionError(absl::StrCat(reports_path, " is from another run"));
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot create ", reports_path));
  }
  ANNEAL_ASSIGN_OR_RETURN(UniqueFd listener, ListenUnix(socket_path));
  UniqueFd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.valid()) return absl::ErrnoToStatus(errno, "cannot make an eventfd");
  return std::unique_ptr<ChildChannel>(new ChildChannel(
      std::move(key), run_dir, std::move(listener), std::move(reports), std::move(wake), clock));
}

ChildChannel::ChildChannel(TaskKey key, std::string run_dir, UniqueFd listener, UniqueFd reports,
                           UniqueFd wake, Clock& clock)
    : key_(std::move(key)),
      run_dir_(std::move(run_dir)),
      listener_(std::move(listener)),
      reports_(std::move(reports)),
      wake_(std::move(wake)),
      clock_(clock),
      thread_("channel", [this] { Serve(); }) {}

ChildChannel::~ChildChannel() {
  {
    absl::MutexLock lock(&mu_);
    closing_ = true;
  }
  Wake();
  thread_.Join();
}

template <typename T>
absl::Status ChildChannel::Await(const std::optional<T>& value, absl::Duration timeout,
                                 absl::string_view what) {
  auto decided = [this, &value]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return value.has_value() || stop_ == StopMode::kNow;
  };
  const bool in_time = clock_.AwaitWithTimeout(&mu_, absl::Condition(&decided), timeout);
  if (stop_ == StopMode::kNow)
    return absl::CancelledError(absl::StrCat("told to stop while waiting for ", what));
  if (in_time) return absl::OkStatus();
  return absl::DeadlineExceededError(
      absl::StrCat("no ", what, " from the worker within ", absl::FormatDuration(timeout)));
}

absl::StatusOr<Start> ChildChannel::WaitForStart(absl::Duration timeout) {
  absl::MutexLock lock(&mu_);
  ANNEAL_RETURN_IF_ERROR(Await(start_, timeout, "start"));
  return *start_;
}

absl::StatusOr<std::string> ChildChannel::WaitForRendezvous(absl::Duration timeout) {
  absl::MutexLock lock(&mu_);
  ANNEAL_RETURN_IF_ERROR(Await(rendezvous_in_, timeout, "rendezvous address"));
  return *rendezvous_in_;
}

StopMode ChildChannel::stop_requested() const {
  absl::MutexLock lock(&mu_);
  return stop_;
}

void ChildChannel::SetRendezvous(const std::string& address) {
  {
    absl::MutexLock lock(&mu_);
    rendezvous_out_ = address;
    rendezvous_is_news_ = true;
  }
  Wake();
}

void ChildChannel::SetPhase(absl::string_view phase) {
  {
    absl::MutexLock lock(&mu_);
    status_.phase = std::string(phase);
    status_is_news_ = true;
  }
  Wake();
}

void ChildChannel::SetRankReport(const RankReport& report) {
  {
    absl::MutexLock lock(&mu_);
    status_.rank = report;
    status_is_news_ = true;
  }
  Wake();
}

absl::Status ChildChannel::SendReport(const Report& report) {
  const Json json = ToJson(report);
  ANNEAL_RETURN_IF_ERROR(ReportFromJson(json).status());
  const std::string line = DumpJson(json) + "\n";
  if (line.size() > kMaxReportBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a report of ", line.size(), " bytes; the limit is ", kMaxReportBytes));
  }
  absl::MutexLock report_lock(&report_mu_);
  const ssize_t written = ::write(reports_.get(), line.data(), line.size());
  if (written != static_cast<ssize_t>(line.size())) {
    const int error = written < 0 ? errno : ENOSPC;
    // Half a line would spoil the next one; if even this fails, the reader sees a line that is not
    // JSON and says so.
    [[maybe_unused]] int ignored = ::ftruncate(reports_.get(), reports_bytes_);
    return absl::ErrnoToStatus(error,
                               absl::StrCat("cannot append to ", run_dir_, "/", kReportsName));
  }
  reports_bytes_ += written;
  {
    absl::MutexLock lock(&mu_);
    ++status_.reports;
    status_is_news_ = true;
  }
  Wake();
  return absl::OkStatus();
}

void ChildChannel::Wake() {
  const uint64_t one = 1;
  // Can only fail when the counter is full, and then the thread is awake anyway.
  [[maybe_unused]] ssize_t ignored = ::write(wake_.get(), &one, sizeof(one));
}

void ChildChannel::Serve() {
  std::optional<LineConnection> connection;
  while (true) {
    {
      absl::MutexLock lock(&mu_);
      if (closing_) return;
    }
    std::vector<pollfd> polled = {{listener_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    if (connection.has_value()) {
      polled.push_back(
          {connection->fd(),
           static_cast<short>(connection->pending_bytes() > 0 ? POLLIN | POLLOUT : POLLIN), 0});
    }
    ::poll(polled.data(), polled.size(), -1);
    if (polled[1].revents != 0) {
      uint64_t count;
      [[maybe_unused]] ssize_t ignored = ::read(wake_.get(), &count, sizeof(count));
    }
    absl::Status status;
    if (connection.has_value() && (polled[2].revents & ~POLLOUT) != 0)
      status = HandleInput(&*connection);
    if (polled[0].revents != 0 && AcceptConnection(&connection))
      status = absl::OkStatus();  // the old one is forgotten
    if (connection.has_value() && status.ok()) {
      QueueNews(&*connection);
      status = connection->Flush();
    }
    if (!status.ok()) {
      ANNEAL_LOG(WARNING) << "lost the worker daemon, waiting for it"
                          << Field("why", status.message());
      connection.reset();
    }
  }
}

bool ChildChannel::AcceptConnection(std::optional<LineConnection>* connection) {
  UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!fd.valid()) return false;  // it went away again
  if (absl::Status status = CheckPeerIsSameUser(fd.get()); !status.ok()) {
    ANNEAL_LOG(ERROR) << "connection refused" << Field("why", status.message());
    return false;
  }
  connection->emplace(std::move(fd));
  (*connection)->Queue(HelloLine(key_));
  absl::MutexLock lock(&mu_);
  rendezvous_is_news_ = rendezvous_out_.has_value();
  status_is_news_ = true;
  return true;
}

void ChildChannel::QueueNews(LineConnection* connection) {
  if (connection->pending_bytes() > kMaxPendingBytes) return;
  absl::MutexLock lock(&mu_);
  if (std::exchange(rendezvous_is_news_, false)) {
    connection->Queue(FormatLine({.rendezvous = Rendezvous{*rendezvous_out_}}));
  }
  if (std::exchange(status_is_news_, false)) connection->Queue(FormatLine({.status = status_}));
}

absl::Status ChildChannel::HandleInput(LineConnection* connection) {
  std::vector<std::string> lines;
  const absl::Status status = connection->Read(&lines);
  for (const std::string& line : lines) ANNEAL_RETURN_IF_ERROR(HandleLine(line));
  return status;
}

absl::Status ChildChannel::HandleLine(absl::string_view text) {
  ANNEAL_ASSIGN_OR_RETURN(Line line, ParseLine(text));
  absl::MutexLock lock(&mu_);
  if (line.start.has_value()) {
    if (!start_.has_value()) start_ = std::move(*line.start);
  } else if (line.rendezvous.has_value()) {
    rendezvous_in_ = line.rendezvous->address;
  } else if (const std::optional<StopMode> mode = StopModeOf(line); mode.has_value()) {
    stop_ = std::max(stop_, *mode);
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("a line that no daemon sends: ", text.substr(0, 100)));
  }
  return absl::OkStatus();
}

absl::Status WriteExitRecord(const std::string& run_dir, const ExitRecord& record) {
  return WriteFileAtomically(absl::StrCat(run_dir, "/", kExitName),
                             DumpJson(ToJson(record)) + "\n");
}

}  // namespace anneal::protocol
