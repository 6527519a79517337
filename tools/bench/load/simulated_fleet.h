#pragma once
// Many workers in one process: real streams, nothing behind them.

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "anneal/internal/fleet_service.grpc.pb.h"
#include "common/base/clock.h"
#include "common/base/thread.h"
#include "grpcpp/channel.h"
#include "tools/bench/load/latencies.h"

namespace anneal::load {

// Purpose: a worker with one CPU slot and one prepare slot that ends every prepare task well at
// once and "trains" every trainer's task for ever, reporting a step with each Sync. It says what
// has changed at once, like the real one. Owner: SimulatedFleet. Thread-safe; lives until its
// stream has ended.
class SimulatedWorker : public grpc::ClientBidiReactor<internal::Observed, internal::Desired> {
 public:
  SimulatedWorker(const std::shared_ptr<grpc::Channel>& channel, const std::string& key,
                  const std::string& name, Clock& clock);

  void Start();
  // The regular message, and a step of each trainer.
  void Tick();
  void Cancel() { context_.TryCancel(); }
  void AwaitEnd();

  struct Counts {
    int64_t sent = 0;
    int64_t received = 0;
    int64_t prepared = 0;
    int64_t steps = 0;
    bool ended = false;
    // Between two messages of the coordinator.
    std::vector<absl::Duration> gaps;
  };
  // Since the last call; `ended` as it is.
  Counts TakeCounts();
  bool answered();

 private:
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  void TakeDesired() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Begin(const internal::DesiredTask& task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Write() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Clock& clock_;
  const std::unique_ptr<internal::FleetService::Stub> stub_;
  grpc::ClientContext context_;
  internal::Desired incoming_;
  internal::Observed outgoing_;

  absl::Mutex mu_;
  internal::Observed observed_ ABSL_GUARDED_BY(mu_);
  bool changed_ ABSL_GUARDED_BY(mu_) = true;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  int64_t step_ ABSL_GUARDED_BY(mu_) = 0;  // of the trainer
  absl::Duration last_received_ ABSL_GUARDED_BY(mu_);
  bool answered_ ABSL_GUARDED_BY(mu_) = false;
  Counts counts_ ABSL_GUARDED_BY(mu_);
};

// Purpose: one worker for each channel, named sim0, sim1, ..., and the thread that makes them sync.
// Guarded by its caller.
class SimulatedFleet {
 public:
  SimulatedFleet(const std::vector<std::shared_ptr<grpc::Channel>>& channels,
                 const std::string& key, Clock& clock);
  ~SimulatedFleet();

  // Waits until every worker has been answered; false after `timeout`.
  bool AwaitAnswers(absl::Duration timeout);
  // Since the last report: {"workers", "broken", "seconds", "sent_per_second",
  // "received_per_second", "prepared", "steps"}; its latencies are the gaps between two messages of
  // the coordinator.
  Json Report();

  // As real workers do.
  static constexpr absl::Duration kSyncEvery = absl::Seconds(2);

 private:
  // Ticks every worker once in `kSyncEvery`, evenly spread.
  void Run();

  Clock& clock_;
  std::vector<std::unique_ptr<SimulatedWorker>> workers_;
  absl::Duration last_report_;
  std::atomic<bool> stopping_ = false;
  // Last, so that it has ended before the workers go.
  Thread ticker_;
};

}  // namespace anneal::load
