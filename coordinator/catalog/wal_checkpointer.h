#pragma once
// Moves what is committed from the databases' logs into their files, beside the control loop.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "common/base/thread.h"
#include "coordinator/catalog/sqlite.h"

namespace anneal {

// Purpose: SQLite's own way is to let every so many'th commit do it, and that commit then takes
// tens of milliseconds and more, with all answers waiting for it. Here a thread does it with
// connections of its own (PRAGMA wal_checkpoint(PASSIVE): it waits for nobody, and nobody for it).
// Only the disk is the same, so it moves little at a time, as long as the disk is quick. Commits
// that never pause leave it no moment at which all is moved and the log can begin anew, so every
// few thousand pages they wait for that once: for as long as the few last pages take, and 20 ms at
// most for somebody who reads. A commit does it only should the log have grown beyond
// kLargestWalPages in spite of that. Owner: Coordinator; ends with its destructor.
class WalCheckpointer {
 public:
  // For catalog.db and metrics.db in `data_dir`; `clock` must outlive it.
  static absl::StatusOr<std::unique_ptr<WalCheckpointer>> Start(const std::string& data_dir,
                                                                Clock& clock);
  ~WalCheckpointer();

 private:
  struct Log {
    Database database;
    int64_t try_at_pages;  // it is made to begin anew when it has so many
  };

  WalCheckpointer(std::vector<Log> logs, Clock& clock);
  static absl::Status Move(Log& log);
  void Run();

  std::vector<Log> logs_;  // the thread's alone
  Clock& clock_;
  absl::Mutex mu_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  Thread thread_;  // last: runs on the members above
};

}  // namespace anneal
