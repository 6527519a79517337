#pragma once
// The storage root: its format, and the two ways in and out of it, publishing and trashing.

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/storage/file_system.h"

namespace anneal {

// Thread-safe. Several programs may have the same root open.
class StorageRoot {
 public:
  // Makes the root if it is not there or empty. FAILED_PRECONDITION if a newer program has written
  // it, or if the folder holds other things. `files`, `clock` and `random` must outlive it.
  static absl::StatusOr<std::unique_ptr<StorageRoot>> Open(const std::string& path,
                                                           FileSystem& files, Clock& clock,
                                                           Random& random);

  const std::string& path() const { return path_; }
  FileSystem& files() const { return files_; }
  // Of a path as common/storage/layout.h gives it.
  std::string Absolute(absl::string_view relative) const;

  // A new path below tmp/ in a folder that exists, for something that will be published. Absolute.
  absl::StatusOr<std::string> NewTemporary(absl::string_view writer);

  // Moves what was written at `temporary` (absolute, its files synced) to `relative`, making the
  // folders above. A file that is there is replaced; a folder that is there is ALREADY_EXISTS.
  // Durable when it returns.
  absl::Status Publish(const std::string& temporary, absl::string_view relative);

  // Held shared from before something is published until it is entered in the catalog, and alone by
  // whoever compares the two and removes what is not entered.
  absl::Mutex& publishing() { return publishing_; }

  // Moves what is there to trash/<day>/. Not an error if there is nothing.
  absl::Status MoveToTrash(absl::string_view relative);
  // Deletes what has lain in the trash for at least 24 h. For one caller at a time, now and then.
  absl::Status DeleteOldTrash();

 private:
  StorageRoot(std::string path, FileSystem& files, Clock& clock, Random& random)
      : path_(std::move(path)), files_(files), clock_(clock), random_(random) {}
  absl::Status CheckOrWriteFormat();

  const std::string path_;
  FileSystem& files_;
  Clock& clock_;
  Random& random_;
  absl::Mutex publishing_;
};

}  // namespace anneal
