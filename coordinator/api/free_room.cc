#include "coordinator/api/free_room.h"

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/config/units.h"

namespace anneal {
namespace {

// In which the fastest that jobs come in takes a few megabytes.
constexpr absl::Duration kLookEvery = absl::Milliseconds(100);

}  // namespace

absl::Status FreeRoom::Check() {
  const absl::Duration now = clock_.MonotonicNow();
  {
    absl::MutexLock lock(&mu_);
    if (now < enough_until_) return absl::OkStatus();
  }
  for (const std::string& path : paths_) {
    ANNEAL_ASSIGN_OR_RETURN(const int64_t free, files_.FreeBytes(path));
    if (free >= min_free_bytes_) continue;
    return WithReason(
        absl::ResourceExhaustedError(absl::StrCat(
            "the disk of ", path, " has ", FormatBytes(free), " free, and jobs are taken with ",
            FormatBytes(min_free_bytes_), " (--min-free): free some, and try again")),
        "STORAGE_FULL");
  }
  absl::MutexLock lock(&mu_);
  enough_until_ = now + kLookEvery;
  return absl::OkStatus();
}

}  // namespace anneal
