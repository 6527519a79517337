#pragma once
// Files, models and uploads in the catalog.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "anneal/internal/catalog.pb.h"
#include "coordinator/catalog/sqlite.h"

namespace anneal {

// Purpose: durable records of what users have handed in. A call returns after its own transaction
// is on disk. Owner: Coordinator. Thread-safe.
//
// These records do not pass through the control loop: nothing it decides depends on them. The one
// rule that spans both, that nothing a live job reads may be deleted, is kept by the database: the
// loop's transaction and ours exclude each other, and both look at the table job_resources.
//
// Errors: NOT_FOUND for what the project does not have, also when another project has it;
// ALREADY_EXISTS from Put when the id is taken; FAILED_PRECONDITION (reason "IN_USE") from Delete
// when a live job uses the resource.
class ResourceStore {
 public:
  // Opens the catalog in `data_dir`, making it if it is not there.
  static absl::StatusOr<std::unique_ptr<ResourceStore>> Open(const std::string& data_dir);

  absl::Status PutFile(const internal::FileRecord& file);
  absl::StatusOr<internal::FileRecord> GetFile(absl::string_view project, absl::string_view id);
  // Newest first, ids below `before_id` (empty = from the newest), at most `limit`; only of this
  // hash unless empty.
  absl::StatusOr<std::vector<internal::FileRecord>> ListFiles(absl::string_view project,
                                                              absl::string_view before_id,
                                                              int limit,
                                                              absl::string_view sha256 = "");
  // The newest file with this content and name.
  absl::StatusOr<std::optional<internal::FileRecord>> FindFile(absl::string_view project,
                                                               absl::string_view sha256,
                                                               absl::string_view display_name);
  absl::Status DeleteFile(absl::string_view project, absl::string_view id);

  absl::Status PutModel(const internal::ModelRecord& model);
  // Remembered: every submit asks for one.
  absl::StatusOr<std::shared_ptr<const internal::ModelRecord>> GetModel(absl::string_view project,
                                                                        absl::string_view id);
  // By id, ids above `after_id` (empty = from the first), at most `limit`.
  absl::StatusOr<std::vector<internal::ModelRecord>> ListModels(absl::string_view project,
                                                                absl::string_view after_id,
                                                                int limit);
  absl::Status DeleteModel(absl::string_view project, absl::string_view id);

  struct StoredBytes {
    int64_t files = 0;
    int64_t models = 0;
  };
  // Sizes of all files and models of the project, as they were handed in: what is stored once for
  // several of them counts for each. Uploads begun after `since` that have not become a file count
  // as files of their full size. Remembered while nothing changes, and so for as long as `since` is
  // no more than ten seconds on.
  absl::StatusOr<StoredBytes> CountBytes(absl::string_view project, absl::Time since);

  // Where in the storage root the files and models of all projects lie.
  absl::StatusOr<std::set<std::string>> ReferencedPaths();

  // Replaces the record of the same upload id.
  absl::Status PutUpload(const internal::UploadRecord& upload);
  absl::StatusOr<internal::UploadRecord> GetUpload(absl::string_view project,
                                                   absl::string_view upload_id);
  absl::Status DeleteUpload(absl::string_view project, absl::string_view upload_id);

 private:
  explicit ResourceStore(Database database) : database_(std::move(database)) {}

  // Fails if a live job of the project uses `resource` ("files/..." or "models/...").
  absl::Status CheckUnused(absl::string_view project, absl::string_view resource)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // What CountBytes has found.
  struct Count {
    StoredBytes bytes;
    absl::Time since;
    int64_t changes = 0;  // of the database until then
  };

  absl::Mutex mu_;
  Database database_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, Count, std::less<>> counts_ ABSL_GUARDED_BY(mu_);  // by project
  // What GetModel has found, by project and id; forgotten when one is put or deleted.
  std::map<std::pair<std::string, std::string>, std::shared_ptr<const internal::ModelRecord>>
      models_ ABSL_GUARDED_BY(mu_);
};

}  // namespace anneal
