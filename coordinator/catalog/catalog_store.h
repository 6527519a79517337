#pragma once
// The control loop's side of the catalog on disk.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "anneal/internal/catalog.pb.h"
#include "anneal/v1/job.pb.h"
#include "coordinator/catalog/usage_ledger.h"

namespace anneal {

// All that one turn of the loop changes.
struct CatalogChange {
  std::vector<std::shared_ptr<const internal::JobRecord>> jobs;  // new or changed
  std::vector<std::pair<std::string, v1::JobEvent>> events;      // by job id, to append
  std::vector<std::string> deleted_jobs;
  std::vector<internal::WorkerRecord> workers;
  UsageRows usage = {};  // to add to what is booked

  bool empty() const {
    return jobs.empty() && events.empty() && deleted_jobs.empty() && workers.empty() &&
           usage.empty();
  }
};

// Owner: Coordinator. Loop thread only. An interface, so that simulations can have a disk of their
// own.
class CatalogStore {
 public:
  // The catalog in SQLite.
  static absl::StatusOr<std::unique_ptr<CatalogStore>> Open(const std::string& data_dir);

  virtual ~CatalogStore() = default;

  // The new coordinator's epoch, greater than any before (NextStartNumber). Durable when it
  // returns.
  virtual absl::StatusOr<int64_t> NextEpoch(absl::Time now) = 0;
  virtual absl::StatusOr<std::vector<internal::JobRecord>> LoadJobs() = 0;
  virtual absl::StatusOr<std::vector<internal::WorkerRecord>> LoadWorkers() = 0;

  // Whether everything the job names is still there. The name of the first that is not, or empty.
  // What is there stays until the next Commit or Release: nobody else can write meanwhile.
  virtual absl::StatusOr<std::string> FindMissingResource(const internal::JobRecord& record) = 0;
  // Lets others write, if nothing is to be committed.
  virtual void Release() = 0;

  // One transaction: all of it survives power loss, or nothing of it is there. RESOURCE_EXHAUSTED
  // when the disk is full. Releases in any case.
  virtual absl::Status Commit(const CatalogChange& change) = 0;
};

}  // namespace anneal
