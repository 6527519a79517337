#pragma once
// Whether machines see in a folder what others do there, as the storage root must let them.
//
// Each machine leaves a mark; when all have, each looks for the others'; then each changes its own;
// and when all have, each looks for what has changed. Nothing is looked for before it was written,
// as NFS remembers absence; and nothing is changed before the others have seen it, so that their
// caches hold what is old then.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "anneal/v1/cluster_service.pb.h"
#include "common/base/clock.h"
#include "common/storage/file_system.h"

namespace anneal {

// What one machine lets others see: a file that another is renamed over, one that grows while it is
// open, as logs do, and one that goes away. Removes what is left of them when it ends. Guarded by
// its owner.
class StorageMark {
 public:
  // `token` tells one examination's files from another's. `files` outlives the mark.
  static absl::StatusOr<std::unique_ptr<StorageMark>> Leave(FileSystem& files,
                                                            const std::string& folder,
                                                            const std::string& name,
                                                            absl::string_view token);
  ~StorageMark();
  // Renames over, goes on writing, removes.
  absl::Status Change();

 private:
  StorageMark(FileSystem& files, std::string path, absl::string_view token);

  FileSystem& files_;
  const std::string path_;
  const std::string token_;
  std::unique_ptr<WritableFile> growing_;  // open, and never synced after it has changed
};

struct MarksSeen {
  v1::Check check;
  std::vector<std::string> names;  // of the marks that were there
};
// `names`: of those who left marks. What is not there within `patience` is missing.
MarksSeen CheckMarks(FileSystem& files, const std::string& folder,
                     const std::vector<std::string>& names, absl::string_view token,
                     absl::Duration patience, Clock& clock);

// While others change their marks: of each, what is seen now must be whole, old or new. Says what
// is not; empty if nothing.
std::string FindMixture(FileSystem& files, const std::string& folder,
                        const std::vector<std::string>& names, absl::string_view token);

// `names`: of those who have changed their marks, which were seen before. Fails if the old content
// of a file that another was renamed over is still there after `patience`, and warns of what else
// is late. `mixture`: what FindMixture has said. Delays count from the call.
v1::Check CheckChanges(FileSystem& files, const std::string& folder,
                       const std::vector<std::string>& names, absl::string_view token,
                       const std::string& mixture, absl::Duration patience, Clock& clock);

}  // namespace anneal
