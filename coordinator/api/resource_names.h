#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace anneal {

// "jobs/{ulid}" -> the ulid. INVALID_ARGUMENT for field `name` otherwise.
absl::StatusOr<std::string> JobIdOf(absl::string_view name);
// "workers/{worker}" -> the worker's name.
absl::StatusOr<std::string> WorkerNameOf(absl::string_view name);
// "keys/{ulid}" -> the ulid.
absl::StatusOr<std::string> KeyIdOf(absl::string_view name);
// Whether `text` is the name of a resource, as the API has them: "jobs/{ulid}", also with
// "/artifacts/{path}", "files/{ulid}", "keys/{ulid}", "models/{model}", "workers/{worker}".
bool IsResourceName(absl::string_view text);

}  // namespace anneal
