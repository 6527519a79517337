#pragma once
// Threads and memory for bytes that come and go, apart from the control loop and from gRPC's own
// few threads.

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/thread.h"

namespace anneal {

// A stream whose client may stop sending or reading without a word. Thread-safe.
class TransferStream {
 public:
  virtual ~TransferStream() = default;
  // Ends the stream if it has waited for its client since before `since` (monotonic).
  virtual void EndIfIdle(absl::Duration since) = 0;
};

// Purpose: runs disk work of API calls, and bounds how many streams hold a message in memory at a
// time (one each, at most 4 MiB), in all and for each project, so that none takes the places of all
// others; streams whose clients do nothing for `idle_timeout` lose theirs. Owner: Coordinator.
// Thread-safe. Must outlive the server whose calls use it; tasks left at destruction are still run.
class TransferPool {
 public:
  struct Options {
    // Of the threads, before a number: they show in top and gdb.
    std::string name = "transfer";
    int threads = 4;
    int max_streams = 32;
    // Of one project; 0 = all.
    int max_project_streams = 8;
    absl::Duration idle_timeout = absl::Minutes(1);
  };
  // `clock` outlives it.
  explicit TransferPool(const Options& options, Clock& clock = Clock::Real());
  ~TransferPool();

  // The right of one stream to be open. Given back by its destructor.
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept
        : pool_(std::exchange(other.pool_, nullptr)), project_(std::move(other.project_)) {}
    Lease& operator=(Lease&& other) noexcept {
      std::swap(pool_, other.pool_);
      std::swap(project_, other.project_);
      return *this;
    }
    ~Lease() {
      if (pool_ != nullptr) pool_->GiveBack(project_);
    }

   private:
    friend class TransferPool;
    Lease(TransferPool* pool, std::string project) : pool_(pool), project_(std::move(project)) {}
    TransferPool* pool_ = nullptr;
    std::string project_;
  };
  // RESOURCE_EXHAUSTED with a retry time when all are taken (reason TOO_MANY_TRANSFERS), or all
  // that this project may have (PROJECT_TRANSFERS).
  absl::StatusOr<Lease> Acquire(const std::string& project);

  // Runs `task` soon, on one of the threads. One stream posts one task at a time, so its tasks run
  // in order.
  void Post(std::function<void()> task);

  // From now until Unwatch the stream is looked at now and then.
  void Watch(std::shared_ptr<TransferStream> stream);
  void Unwatch(const TransferStream* stream);

  Clock& clock() const { return clock_; }

 private:
  void Run();
  void EndIdleStreams();
  void GiveBack(const std::string& project);

  const Options options_;
  Clock& clock_;
  absl::Mutex mu_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mu_);
  int streams_ ABSL_GUARDED_BY(mu_) = 0;
  absl::flat_hash_map<std::string, int> project_streams_ ABSL_GUARDED_BY(mu_);
  std::vector<std::shared_ptr<TransferStream>> watched_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<Thread> threads_;
};

}  // namespace anneal
