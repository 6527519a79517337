#pragma once
// JSON in a file that somebody else may change: opened as the reader says.

#include <string>

#include "absl/status/statusor.h"
#include "common/base/regular_file.h"
#include "common/format/json.h"

namespace anneal {

// As ReadJsonFile of json.h, which opens with OpenRegularFile.
absl::StatusOr<Json> ReadJsonFile(const std::string& path, const JsonLimits& limits,
                                  const FileOpener& open);

}  // namespace anneal
