#pragma once
// A model directory that a user names by its path on the coordinator's machine.

#include <string>

#include "absl/status/statusor.h"
#include "common/format/model_directory.h"
#include "coordinator/api/allowed_roots.h"

namespace anneal {

// Reads the directory at its real path. Errors as of AllowedRoots::Resolve and ReadModelDirectory.
// PERMISSION_DENIED, before any file is opened, if a symbolic link in it leads outside the allowed
// roots: errors quote what they read.
absl::StatusOr<ModelDirectory> ReadAllowedModel(const AllowedRoots& allowed_roots,
                                                const std::string& path);

}  // namespace anneal
