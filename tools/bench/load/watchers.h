#pragma once
// Many WatchJob streams in one process.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "anneal/v1/fine_tuning_service.grpc.pb.h"
#include "common/base/clock.h"
#include "grpcpp/channel.h"

namespace anneal::load {

// Purpose: one open WatchJob that remembers when its job entered its state. Thread-safe; lives
// until its stream has ended.
class Watcher : public grpc::ClientReadReactor<v1::WatchJobResponse> {
 public:
  Watcher(const std::shared_ptr<grpc::Channel>& channel, const std::string& key, std::string job,
          Clock& clock);

  void Start();
  void Cancel() { context_.TryCancel(); }
  void AwaitEnd();

  const std::string& job() const { return request_.name(); }
  // Whether the first snapshot has come.
  bool opened();
  bool ended();
  int64_t messages();
  // Waits until the job has entered `state`; says when that was heard (monotonic), or the infinite
  // duration if the stream ends or `timeout` passes first.
  absl::Duration AwaitState(v1::JobState state, absl::Duration timeout);

 private:
  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  Clock& clock_;
  const std::unique_ptr<v1::FineTuningService::Stub> stub_;
  v1::WatchJobRequest request_;
  grpc::ClientContext context_;
  v1::WatchJobResponse incoming_;

  absl::Mutex mu_;
  bool opened_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  int64_t messages_ ABSL_GUARDED_BY(mu_) = 0;
  v1::JobState state_ ABSL_GUARDED_BY(mu_) = v1::JOB_STATE_UNSPECIFIED;
  absl::Duration state_at_ ABSL_GUARDED_BY(mu_);
};

}  // namespace anneal::load
