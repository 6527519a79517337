#pragma once
// Files below a folder that others may write to, opened where their path was checked and nowhere
// else.

#include <string>

#include "absl/status/statusor.h"
#include "common/base/regular_file.h"

namespace anneal {

// Opens the regular file `path` below the folder `root` for reading. The path to the root may lead
// over links, as a mount point often does; below it the path must be free of links and of "..", as
// one is that was resolved before. So whoever puts a link there afterwards sends no reader out of
// the root. Nothing blocks: a pipe, a device and a socket are refused.
//
// PERMISSION_DENIED names the path if a link stands on it or it is not below the root;
// INVALID_ARGUMENT if it is no regular file; NOT_FOUND or the errno's code otherwise. Thread-safe.
absl::StatusOr<UniqueFd> OpenBeneath(const std::string& root, const std::string& path);

// A path that says itself below which folder it was found, as rsync's --relative has them:
// "/srv/shared/./deep/a.jsonl". To whoever does not know of this it is the same path.
std::string RootedPath(const std::string& root, const std::string& path);
// The path without that.
std::string PlainPath(const std::string& path);
// OpenBeneath for a rooted path; OpenRegularFile, which follows links, for another one.
absl::StatusOr<UniqueFd> OpenRooted(const std::string& path);

// OpenBeneath one folder at a time, for kernels without openat2 (before 5.6). Visible for its test.
absl::StatusOr<UniqueFd> OpenBeneathStepwise(const std::string& root, const std::string& path);

}  // namespace anneal
