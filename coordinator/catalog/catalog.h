#pragma once
// What readers see of the catalog: the newest published snapshot.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

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
//
// A publication costs what has changed, not what there is: the table is written in place. Only
// after somebody has taken the whole table is it copied first, once, and theirs stays as it was.
class Catalog {
 public:
  using Record = std::shared_ptr<const internal::JobRecord>;

  explicit Catalog(Clock& clock) : clock_(clock) {}

  // All jobs at one moment; never null. For those who look at many: see above.
  std::shared_ptr<const JobTable> jobs() const;
  // The job, or null if the project has none of this id.
  Record FindJob(absl::string_view project, absl::string_view id) const;
  // The job that the project's request of this id has made, or null.
  Record FindRequest(const std::string& project, const std::string& request_id) const;
  // The project's jobs that hold bytes in the storage root: checkpoints or outputs.
  std::vector<Record> JobsWithBytes(const std::string& project) const;

  // How many of the project's jobs have not ended.
  int64_t CountLiveJobs(const std::string& project) const;

  // Called by the loop thread: new and changed jobs, and ids of deleted ones.
  void Publish(const std::vector<Record>& changed, const std::vector<std::string>& deleted = {});

  // Counts publications.
  uint64_t version() const;
  // Waits until there is a version above `seen` or `timeout` has passed. Returns the version.
  uint64_t AwaitVersionAbove(uint64_t seen, absl::Duration timeout) const;

 private:
  void Put(const Record& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Remove(const std::string& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Clock& clock_;
  mutable absl::Mutex mu_;
  std::shared_ptr<JobTable> jobs_ ABSL_GUARDED_BY(mu_) = std::make_shared<JobTable>();
  // Somebody may hold `jobs_`: it is not written any more.
  mutable bool taken_ ABSL_GUARDED_BY(mu_) = false;
  // Ids by project and request id, and by project.
  std::map<std::pair<std::string, std::string>, std::string> requests_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, JobTable> with_bytes_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, int64_t> live_ ABSL_GUARDED_BY(mu_);
  uint64_t version_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace anneal
