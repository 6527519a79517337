#pragma once
// Where things lie in the storage root, the one folder that all nodes see. Paths are relative.
//
//   FORMAT                        version of this layout
//   blobs/sha256/ab/<hash>        uploaded files by content
//   blobs/prepared/<job>/         prepared data
//   blobs/prepared-cache/         the same by what it was made of
//   models/<project>/<id>/        imported models
//   jobs/<job>/                   checkpoints and logs
//   outputs/<job>/                what a job made
//   outputs/<job>.partial-g<n>/   what generation n makes, until the coordinator renames it
//   tmp/<writer>/                 what is being written; published by rename
//   trash/<day>/                  what was deleted, for 24 h
//
// A path is never probed before the catalog knows it: NFS remembers absence.

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace anneal {

// `sha256`: 64 lower-case hexadecimal digits.
std::string BlobPath(absl::string_view sha256);
// Model ids are the project's own, so the project is part of the path. Neither may be "." or "..",
// or hold a slash.
std::string ModelPath(absl::string_view project, absl::string_view id);
std::string JobPath(absl::string_view job);
// The log of a rank of one generation, or of anneal-prepare for rank -1.
std::string JobLogPath(absl::string_view job, int64_t generation, int rank);
// Below it each checkpoint has a folder <step>-g<generation>.
std::string CheckpointsPath(absl::string_view job);
std::string OutputPath(absl::string_view job);
// Where rank 0 of a generation puts the outputs. Only the coordinator, which knows what generation
// is the job's, gives them the name above.
std::string StagedOutputPath(absl::string_view job, int64_t generation);
// The reverse, of a name in outputs/: false for other names.
bool ParseStagedOutput(absl::string_view name, std::string* job, int64_t* generation);
// What anneal-prepare makes of a job's files; a folder.
std::string PreparedPath(absl::string_view job);
// Prepared files under their cache key; a folder.
std::string PreparedCachePath();

// Of manifest.json in outputs/<job>/.
inline constexpr int64_t kMaxOutputManifestBytes = 8 << 20;

bool IsSha256(absl::string_view text);
// Whether `path` names something below the folder it is taken relative to: not empty, not absolute,
// no part that is empty, "." or
// "..", no NUL, at most 1024 bytes.
bool IsSafeRelativePath(absl::string_view path);

}  // namespace anneal
