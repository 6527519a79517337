#pragma once
// Opening files that others may have put there: never a pipe, which blocks its reader, nor a
// device.

#include <cstddef>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file.h"

namespace anneal {

// Opens a file for reading. Who reads what others may write takes one, so that its caller says how
// far a path may lead.
using FileOpener = std::function<absl::StatusOr<UniqueFd>(const std::string& path)>;

// Opens a regular file for reading, links followed. INVALID_ARGUMENT for anything else, at once;
// NOT_FOUND or the errno's code with the path.
absl::StatusOr<UniqueFd> OpenRegularFile(const std::string& path);

// OK if an open descriptor, as O_RDONLY | O_NONBLOCK gave it, is of a regular file.
absl::Status CheckRegularFile(int fd, const std::string& path);

// The whole of an open file from its current position; errors name it `path`. RESOURCE_EXHAUSTED
// if it is longer than `max_bytes`.
absl::StatusOr<std::string> ReadOpenFile(int fd, const std::string& path, size_t max_bytes);

// SHA-256 from an open file's current position to its end; errors name it `path`.
absl::StatusOr<std::string> Sha256OfOpenFile(int fd, const std::string& path);

}  // namespace anneal
