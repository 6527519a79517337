#pragma once
// Keeps the storage root free of what nobody wants any more.

#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "anneal/v1/cluster_service.pb.h"
#include "common/base/clock.h"
#include "common/base/thread.h"
#include "common/storage/storage_root.h"
#include "coordinator/catalog/catalog.h"
#include "coordinator/catalog/resource_store.h"

namespace anneal {

// Purpose: finds what the catalog does not know, or no longer needs, moves it to the trash, and
// empties the trash after a day. Deleting a job or a file only takes it out of the catalog; so a
// crash in between leaves nothing behind for good. Owner: Coordinator. Thread-safe.
//
// Nothing that is wanted can go. What lies in the root is listed first and compared with the
// catalog after, so whatever was entered meanwhile is seen; publishing something and entering it
// excludes the comparison (StorageRoot::publishing); and what is unknown has to stay so for
// `grace`, seen again and again, before it goes.
class StorageCollector {
 public:
  struct Options {
    absl::Duration every = absl::Minutes(10);
    absl::Duration grace = absl::Hours(1);
    // The same for what is being written or is merely a cache.
    absl::Duration temporary_grace = absl::Hours(48);
    absl::Duration cache_grace = absl::Hours(7 * 24);
  };

  // All must outlive it.
  StorageCollector(StorageRoot& root, const Catalog& catalog, ResourceStore& resources,
                   Clock& clock, Options options);
  ~StorageCollector();

  // Collects now and then in a thread of its own, until it is destroyed.
  void Start();
  // Once; what was moved to the trash. A part that cannot be read is left for the next time.
  absl::StatusOr<std::vector<std::string>> Collect() ABSL_LOCKS_EXCLUDED(mu_);

  // What the root holds, by kind. Looks at every file.
  absl::StatusOr<v1::Storage> Measure() const;

 private:
  // Whatever may be collected as a whole, relative to the root.
  std::vector<std::string> ListAll() const;
  absl::Duration GraceFor(absl::string_view path) const;
  void Run();

  StorageRoot& root_;
  const Catalog& catalog_;
  ResourceStore& resources_;
  Clock& clock_;
  const Options options_;

  absl::Mutex mu_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  // Since when each path has been seen and not been wanted.
  std::map<std::string, absl::Time> unwanted_ ABSL_GUARDED_BY(mu_);
  Thread thread_;  // last: runs on the members above
};

}  // namespace anneal
