#pragma once
// A worker for tests of the coordinator: a real Sync stream whose observed state the test writes by
// hand.

#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "anneal/internal/fleet_service.grpc.pb.h"
#include "common/base/thread.h"
#include "common/format/json.h"
#include "common/protocol/messages.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "gtest/gtest.h"

namespace anneal::testing {

// The test's thread changes `observed()` and calls Sync; a thread of ours reads what the
// coordinator wants.
class FakeWorker {
 public:
  FakeWorker(const std::string& address, const std::string& key, const std::string& name,
             int cpu_slots, int64_t incarnation = 1)
      : channel_(*MakeChannel({.target = address})),
        stub_(internal::FleetService::NewStub(channel_)) {
    observed_.set_worker(name);
    observed_.set_worker_incarnation(incarnation);
    observed_.set_prepare_slots(1);
    observed_.set_data_address("127.0.0.1");
    for (int i = 0; i < cpu_slots; ++i) {
      v1::Slot& slot = *observed_.add_slots();
      slot.set_id(absl::StrCat("cpu", i));
      slot.set_accelerator(v1::ResourceSpec::ACCELERATOR_CPU);
      slot.set_threads(2);
    }
    PrepareCall(context_, key, absl::InfiniteDuration());
    stream_ = stub_->Sync(&context_);
    reader_ = Thread("fake-worker", [this] { Read(); });
  }
  ~FakeWorker() { Disappear(); }

  // What the next Sync says.
  internal::Observed& observed() { return observed_; }
  void Sync() { stream_->Write(observed_); }

  // The stream breaks without a word. May be called twice.
  void Disappear() {
    context_.TryCancel();
    reader_.Join();
  }

  // Waits until what the coordinator wants satisfies `condition`; fails the test after 20 s.
  internal::Desired AwaitDesired(const std::function<bool(const internal::Desired&)>& condition) {
    absl::MutexLock lock(&mu_);
    const auto reached = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
      return ended_ || condition(desired_);
    };
    EXPECT_TRUE(mu_.AwaitWithTimeout(absl::Condition(&reached), absl::Seconds(20)))
        << desired_.ShortDebugString();
    EXPECT_FALSE(ended_) << status_;
    return desired_;
  }
  internal::Desired AwaitTasks(int count) {
    return AwaitDesired(
        [count](const internal::Desired& desired) { return desired.tasks_size() == count; });
  }
  // Waits until the coordinator has closed the stream.
  absl::Status AwaitEnd() {
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(&ended_));
    return status_;
  }

  // Shows the desired task as running; returns it to add phase and reports.
  internal::TaskObservation& Run(const internal::DesiredTask& task) {
    internal::TaskObservation& observation = *observed_.add_tasks();
    *observation.mutable_id() = task.id();
    observation.set_state(internal::TaskObservation::STATE_RUNNING);
    return observation;
  }
  // Adds a report to a task, numbered after its last.
  static void Report(internal::TaskObservation& task, const protocol::Report& report,
                     int64_t sequence) {
    internal::Report& out = *task.add_reports();
    out.set_sequence(sequence);
    out.set_json(DumpJson(ToJson(report)));
  }

 private:
  void Read() {
    internal::Desired desired;
    while (stream_->Read(&desired)) {
      absl::MutexLock lock(&mu_);
      desired_ = desired;
    }
    const absl::Status status = FromGrpcStatus(stream_->Finish());
    absl::MutexLock lock(&mu_);
    status_ = status;
    ended_ = true;
  }

  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<internal::FleetService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<internal::Observed, internal::Desired>> stream_;
  internal::Observed observed_;

  absl::Mutex mu_;
  internal::Desired desired_ ABSL_GUARDED_BY(mu_);
  absl::Status status_ ABSL_GUARDED_BY(mu_);
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  Thread reader_;
};

}  // namespace anneal::testing
