#pragma once
// Base models, without gRPC: records in the catalog, directories in the storage root.

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "anneal/internal/catalog.pb.h"
#include "anneal/v1/model_service.pb.h"
#include "common/base/clock.h"
#include "common/format/model_directory.h"
#include "common/storage/storage_root.h"
#include "coordinator/api/allowed_roots.h"
#include "coordinator/api/project_limits.h"
#include "coordinator/catalog/resource_store.h"

namespace anneal {

// As the API shows it.
v1::Model ModelFrom(const internal::ModelRecord& record);

// Purpose: imports and deletes models. An imported directory never changes: it is copied aside,
// checked and hashed as it is there, published by rename, and only then recorded. What a crash
// leaves without a record goes to the trash when its id is used again. Owner: Coordinator. Guarded
// by its caller, so that two imports never race for an id. Slow: reads every byte of a model.
class ModelLibrary {
 public:
  struct Parts {
    ResourceStore& resources;
    ProjectLimits& limits;
    StorageRoot& root;
    const AllowedRoots& allowed_roots;
    // Of directories that users name, shared with whoever else reads them.
    FileHashCache& source_hashes;
    Clock& clock;
  };
  explicit ModelLibrary(const Parts& parts) : parts_(parts) {}

  // INVALID_ARGUMENT for a bad request or a directory that is no model we can train, with what to
  // do; PERMISSION_DENIED outside the allowed roots; ALREADY_EXISTS if the id names a model of
  // other content or source; RESOURCE_EXHAUSTED if the disk or the project's limit is too small.
  // Importing the same again returns the first.
  // `call` is the id of the API call that asks, for the log.
  absl::StatusOr<v1::Model> Import(const std::string& project,
                                   const v1::ImportModelRequest& request, absl::string_view call);

  absl::Status Delete(const std::string& project, const std::string& id);

 private:
  // The request with its defaults filled in.
  struct Wanted {
    std::string project;
    std::string source;
    std::string id;
    std::string source_id;
  };
  absl::StatusOr<Wanted> CheckRequest(const std::string& project,
                                      const v1::ImportModelRequest& request) const;
  absl::Status CheckSameModel(const internal::ModelRecord& known, const Wanted& wanted,
                              const ModelDirectory& source);
  absl::Status CopyFiles(const ModelDirectory& source, const std::string& target) const;
  absl::StatusOr<internal::ModelRecord> CopyAndPublish(const Wanted& wanted,
                                                       const ModelDirectory& source,
                                                       const std::string& temporary);

  const Parts parts_;
};

}  // namespace anneal
