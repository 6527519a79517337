#pragma once
// Whether a folder behaves as the storage root must: Anneal publishes by rename, and believes what
// was synced.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "anneal/v1/cluster_service.pb.h"
#include "common/base/clock.h"
#include "common/storage/file_system.h"

namespace anneal {

// Renames files over one that is read all the time, syncs, and measures how long that takes. Makes
// `folder` for it and removes it. Uses a thread of its own; takes a second or so.
v1::Check CheckStorage(FileSystem& files, const std::string& folder, Clock& clock);

// How machines find out whether they see the same folder: each leaves a mark, and when all have,
// each looks for the others'. A mark is looked for only after it was written, because NFS remembers
// absence.
absl::Status LeaveMark(FileSystem& files, const std::string& folder, const std::string& name,
                       absl::string_view content);
// `names`: of those who left `content`. What is not there within `patience` is missing.
v1::Check CheckMarks(FileSystem& files, const std::string& folder,
                     const std::vector<std::string>& names, absl::string_view content,
                     absl::Duration patience, Clock& clock);

}  // namespace anneal
