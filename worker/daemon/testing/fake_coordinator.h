#pragma once
// A coordinator that wants what the test says and remembers what the worker tells. Real gRPC, on a
// port of its own.

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "anneal/internal/fleet_service.grpc.pb.h"
#include "common/base/file.h"
#include "common/metrics/metrics.h"
#include "common/protocol/run_folder_layout.h"
#include "common/rpc/server.h"

namespace anneal::testing {

// Thread-safe. As a coordinator must, it takes a task's reports in order and without gaps,
// acknowledges what it has taken, and ignores what comes again; a gap fails the test.
class FakeCoordinator : public internal::FleetService::Service {
 public:
  FakeCoordinator();
  ~FakeCoordinator() override;

  // "host:port"; the same after Stop and Start.
  const std::string& address() const { return address_; }
  void Start();
  void Stop();

  // Replaces the desired tasks; acknowledgements are filled in.
  void Want(const std::vector<internal::DesiredTask>& tasks);
  void SetEpoch(int64_t epoch);
  // Whether jobs want what the worker has. False at first.
  void SetWanted(bool wanted);
  // Whether reports are acknowledged. True at first.
  void SetAcknowledging(bool acknowledging);

  // Waits until the newest observed state satisfies `condition`; fails the test with the state
  // after 30 s.
  internal::Observed AwaitObserved(const std::string& what,
                                   const std::function<bool(const internal::Observed&)>& condition);
  // The same for one task; absent tasks do not satisfy.
  internal::TaskObservation AwaitTask(
      const std::string& what, const protocol::TaskKey& key,
      const std::function<bool(const internal::TaskObservation&)>& condition);
  // Waits until so many reports of the task have come; returns all, in order.
  std::vector<std::string> AwaitReports(const protocol::TaskKey& key, size_t count);
  // Waits until a worker has opened so many more streams.
  void AwaitMoreStreams(int64_t count);
  // All reports of the task so far.
  std::vector<std::string> Reports(const protocol::TaskKey& key);

 private:
  using Stream = grpc::ServerReaderWriter<internal::Desired, internal::Observed>;

  grpc::Status Sync(grpc::ServerContext* context, Stream* stream) override;
  void Write(Stream* stream, const bool& ended);
  void Take(const internal::Observed& observed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  internal::Desired MakeDesired() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  MetricRegistry registry_;
  RpcMetrics metrics_;
  std::string address_ = "127.0.0.1:0";
  std::unique_ptr<RpcServer> server_;
  UniqueFd reserved_port_;  // while stopped: no other test's server may take it

  absl::Mutex mu_;
  int64_t epoch_ ABSL_GUARDED_BY(mu_) = 1;
  bool wanted_ ABSL_GUARDED_BY(mu_) = false;
  bool acknowledging_ ABSL_GUARDED_BY(mu_) = true;
  std::vector<internal::DesiredTask> tasks_ ABSL_GUARDED_BY(mu_);
  int64_t version_ ABSL_GUARDED_BY(mu_) = 0;  // of what is desired
  int64_t streams_ ABSL_GUARDED_BY(mu_) = 0;  // opened so far
  internal::Observed observed_ ABSL_GUARDED_BY(mu_);
  std::map<protocol::TaskKey, std::vector<std::string>> reports_ ABSL_GUARDED_BY(mu_);
};

}  // namespace anneal::testing
