#include "worker/daemon/testing/fake_coordinator.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdint>

#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/base/thread.h"
#include "gtest/gtest.h"
#include "worker/daemon/launch.h"

namespace anneal::testing {
namespace {
constexpr absl::Duration kPatience = absl::Seconds(30);

// A socket that is bound to the port of "127.0.0.1:port" and does not listen: connections are
// refused, the kernel gives the port to nobody who asks for any, and a server that asks for this
// one gets it, as both set SO_REUSEADDR.
UniqueFd ReservePort(absl::string_view address) {
  int port = 0;
  ANNEAL_CHECK(absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port));
  sockaddr_in local = {};
  local.sin_family = AF_INET;
  local.sin_port = htons(static_cast<uint16_t>(port));
  local.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  ANNEAL_CHECK(::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0);
  ANNEAL_CHECK(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&local), sizeof(local)) == 0);
  return fd;
}

}  // namespace

using internal::Desired;
using internal::DesiredTask;
using internal::Observed;
using internal::TaskObservation;
using protocol::TaskKey;

FakeCoordinator::FakeCoordinator() : metrics_(registry_) { Start(); }
FakeCoordinator::~FakeCoordinator() { Stop(); }

void FakeCoordinator::Start() {
  absl::StatusOr<std::unique_ptr<RpcServer>> server =
      RpcServer::Start({.address = address_}, {this}, metrics_, Clock::Real());
  ANNEAL_CHECK_OK(server.status());
  server_ = *std::move(server);
  address_ = server_->address();
  reserved_port_ = UniqueFd();
}

void FakeCoordinator::Stop() {
  if (server_ == nullptr) return;
  server_.reset();
  reserved_port_ = ReservePort(address_);
}

void FakeCoordinator::Want(const std::vector<DesiredTask>& tasks) {
  absl::MutexLock lock(&mu_);
  tasks_ = tasks;
  ++version_;
}

void FakeCoordinator::SetEpoch(int64_t epoch) {
  absl::MutexLock lock(&mu_);
  epoch_ = epoch;
  ++version_;
}

void FakeCoordinator::SetWanted(bool wanted) {
  absl::MutexLock lock(&mu_);
  wanted_ = wanted;
  ++version_;
}

void FakeCoordinator::SetAcknowledging(bool acknowledging) {
  absl::MutexLock lock(&mu_);
  acknowledging_ = acknowledging;
  ++version_;
}

Observed FakeCoordinator::AwaitObserved(const std::string& what,
                                        const std::function<bool(const Observed&)>& condition) {
  absl::MutexLock lock(&mu_);
  auto holds = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return condition(observed_); };
  if (!mu_.AwaitWithTimeout(absl::Condition(&holds), kPatience)) {
    ADD_FAILURE() << "waited in vain for: " << what << "\n" << observed_.DebugString();
  }
  return observed_;
}

TaskObservation FakeCoordinator::AwaitTask(
    const std::string& what, const TaskKey& key,
    const std::function<bool(const TaskObservation&)>& condition) {
  TaskObservation found;
  AwaitObserved(what, [&](const Observed& observed) {
    return std::any_of(observed.tasks().begin(), observed.tasks().end(),
                       [&](const TaskObservation& task) {
                         absl::StatusOr<TaskKey> id = TaskKeyFromProto(task.id());
                         if (!id.ok() || *id != key || !condition(task)) return false;
                         found = task;
                         return true;
                       });
  });
  return found;
}

std::vector<std::string> FakeCoordinator::AwaitReports(const TaskKey& key, size_t count) {
  absl::MutexLock lock(&mu_);
  auto enough = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return reports_[key].size() >= count; };
  if (!mu_.AwaitWithTimeout(absl::Condition(&enough), kPatience)) {
    ADD_FAILURE() << "waited in vain for " << count << " reports; " << reports_[key].size()
                  << " came";
  }
  return reports_[key];
}

void FakeCoordinator::AwaitMoreStreams(int64_t count) {
  absl::MutexLock lock(&mu_);
  const int64_t enough = streams_ + count;
  auto opened = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return streams_ >= enough; };
  if (!mu_.AwaitWithTimeout(absl::Condition(&opened), kPatience)) {
    ADD_FAILURE() << "waited in vain for " << count << " more streams";
  }
}

std::vector<std::string> FakeCoordinator::Reports(const TaskKey& key) {
  absl::MutexLock lock(&mu_);
  return reports_[key];
}

grpc::Status FakeCoordinator::Sync(grpc::ServerContext* context, Stream* stream) {
  bool ended = false;
  {
    Thread writer("fake-writer", [&] { Write(stream, ended); });
    Observed observed;
    {
      absl::MutexLock lock(&mu_);
      ++streams_;
    }
    while (stream->Read(&observed)) {
      absl::MutexLock lock(&mu_);
      Take(observed);
    }
    absl::MutexLock lock(&mu_);
    ended = true;
  }
  return grpc::Status::OK;
}

void FakeCoordinator::Write(Stream* stream, const bool& ended) {
  int64_t told = -1;
  while (true) {
    Desired desired;
    {
      absl::MutexLock lock(&mu_);
      auto news = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return ended || told != version_; };
      mu_.Await(absl::Condition(&news));
      if (ended) return;
      told = version_;
      desired = MakeDesired();
    }
    if (!stream->Write(desired)) return;
  }
}

void FakeCoordinator::Take(const Observed& observed) {
  observed_ = observed;
  for (const TaskObservation& task : observed.tasks()) {
    absl::StatusOr<TaskKey> key = TaskKeyFromProto(task.id());
    ASSERT_TRUE(key.ok()) << key.status();
    std::vector<std::string>& taken = reports_[*key];
    for (const internal::Report& report : task.reports()) {
      const int64_t next = static_cast<int64_t>(taken.size()) + 1;
      ASSERT_LE(report.sequence(), next) << "reports were lost";
      if (report.sequence() < next) {
        EXPECT_EQ(report.json(), taken[report.sequence() - 1]) << "a report has changed";
        continue;
      }
      taken.push_back(report.json());
      if (acknowledging_) ++version_;
    }
  }
}

Desired FakeCoordinator::MakeDesired() {
  Desired desired;
  desired.set_coordinator_epoch(epoch_);
  desired.set_is_wanted(wanted_);
  for (const DesiredTask& task : tasks_) {
    DesiredTask* copy = desired.add_tasks();
    *copy = task;
    if (absl::StatusOr<TaskKey> key = TaskKeyFromProto(task.id()); key.ok() && acknowledging_) {
      copy->set_acknowledged_report(static_cast<int64_t>(reports_[*key].size()));
    }
  }
  return desired;
}

}  // namespace anneal::testing
