#pragma once
// Whether there is room for more jobs.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/storage/file_system.h"

namespace anneal {

// Purpose: refuses what a full disk could not hold; what is there goes on and can be read. Looks
// ten times a second at most while there is room: every submit asks, and the answer comes from the
// kernel or from a file server. Owner: FineTuningServiceImpl. Thread-safe.
class FreeRoom {
 public:
  // `files` and `clock` outlive it. At least `min_free_bytes` are to be free at each of `paths`.
  FreeRoom(FileSystem& files, Clock& clock, std::vector<std::string> paths, int64_t min_free_bytes)
      : files_(files), clock_(clock), paths_(std::move(paths)), min_free_bytes_(min_free_bytes) {}

  // RESOURCE_EXHAUSTED (reason "STORAGE_FULL") with the path, or what its file system says.
  absl::Status Check();

 private:
  FileSystem& files_;
  Clock& clock_;
  const std::vector<std::string> paths_;
  const int64_t min_free_bytes_;

  absl::Mutex mu_;
  absl::Duration enough_until_ ABSL_GUARDED_BY(mu_) = -absl::InfiniteDuration();
};

}  // namespace anneal
