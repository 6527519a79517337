#pragma once
// Threads and memory for bytes that come and go, apart from the control loop and from gRPC's own
// few threads.

#include <deque>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/base/thread.h"

namespace anneal {

// Purpose: runs disk work of API calls, and bounds how many streams hold a message in memory at a
// time (one each, at most 4 MiB). Owner: Coordinator. Thread-safe. Must outlive the server whose
// calls use it; tasks left at destruction are still run.
class TransferPool {
 public:
  struct Options {
    // Of the threads, before a number: they show in top and gdb.
    std::string name = "transfer";
    int threads = 4;
    int max_streams = 32;
  };
  explicit TransferPool(const Options& options);
  ~TransferPool();

  // The right of one stream to be open. Given back by its destructor.
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) : pool_(std::exchange(other.pool_, nullptr)) {}
    Lease& operator=(Lease&& other) {
      std::swap(pool_, other.pool_);
      return *this;
    }
    ~Lease() {
      if (pool_ != nullptr) pool_->GiveBack();
    }

   private:
    friend class TransferPool;
    explicit Lease(TransferPool* pool) : pool_(pool) {}
    TransferPool* pool_ = nullptr;
  };
  // RESOURCE_EXHAUSTED with a retry time when all are taken.
  absl::StatusOr<Lease> Acquire();

  // Runs `task` soon, on one of the threads. One stream posts one task at a time, so its tasks run
  // in order.
  void Post(std::function<void()> task);

 private:
  void Run();
  void GiveBack();

  const int max_streams_;
  absl::Mutex mu_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mu_);
  int streams_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<Thread> threads_;
};

}  // namespace anneal
