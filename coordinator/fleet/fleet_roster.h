#pragma once
// The workers as users see them.

#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "anneal/v1/cluster_service.pb.h"

namespace anneal {

// Purpose: published by the loop after each turn, read by handlers. Owner: Coordinator.
// Thread-safe.
class FleetRoster {
 public:
  using Workers = std::vector<v1::Worker>;

  // By name; never null.
  std::shared_ptr<const Workers> workers() const {
    absl::MutexLock lock(&mu_);
    return workers_;
  }
  void Publish(Workers workers) {
    auto next = std::make_shared<const Workers>(std::move(workers));
    absl::MutexLock lock(&mu_);
    workers_.swap(next);
  }

 private:
  mutable absl::Mutex mu_;
  std::shared_ptr<const Workers> workers_ ABSL_GUARDED_BY(mu_) = std::make_shared<Workers>();
};

}  // namespace anneal
