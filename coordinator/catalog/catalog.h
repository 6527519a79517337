#pragma once
// What readers see of the catalog: the newest published snapshot.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "coordinator/lifecycle/job_table.h"

namespace anneal {

// Purpose: hands the control loop's state to handlers without their waiting for the loop. Published
// only after it is durable, so nobody can see what a crash would take back; live progress is the
// one thing shown earlier. Owner: Coordinator. Thread-safe.
class Catalog {
 public:
  explicit Catalog(Clock& clock) : clock_(clock) {}

  // Never null.
  std::shared_ptr<const JobTable> jobs() const;
  // The job, or null if the project has none of this id.
  std::shared_ptr<const internal::JobRecord> FindJob(absl::string_view project,
                                                     absl::string_view id) const;

  // Called by the loop thread.
  void Publish(JobTable jobs);

  // Counts publications.
  uint64_t version() const;
  // Waits until there is a version above `seen` or `timeout` has passed. Returns the version.
  uint64_t AwaitVersionAbove(uint64_t seen, absl::Duration timeout) const;

 private:
  Clock& clock_;
  mutable absl::Mutex mu_;
  std::shared_ptr<const JobTable> jobs_ ABSL_GUARDED_BY(mu_) = std::make_shared<JobTable>();
  uint64_t version_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace anneal
