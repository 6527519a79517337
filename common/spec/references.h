#pragma once
// How a job spec names models and files. Pure text rules; whether a thing exists is the
// coordinator's to know.

#include <string>

#include "absl/strings/string_view.h"

namespace anneal::spec {

// "[a-z0-9][a-z0-9._-]{0,62}"
bool IsModelId(absl::string_view id);
// "models/{id}"
bool IsModelName(absl::string_view name);
// "jobs/{ulid}/artifacts/model"
bool IsJobModelName(absl::string_view name);
// "files/{ulid}"
bool IsFileName(absl::string_view name);
// "file:///absolute/path" without host, query, empty, "." or ".." components.
bool IsFileUri(absl::string_view uri);

// What is wrong with the reference, or "" if its form is right.
std::string ModelReferenceProblem(absl::string_view reference);
std::string FileReferenceProblem(absl::string_view reference);

// The path of a file URI; percent signs are taken literally, as everywhere in this service. `uri`
// must be a file URI.
std::string PathOfFileUri(absl::string_view uri);

}  // namespace anneal::spec
