#pragma once
// TLS files for servers and clients.

#include <string>

#include "absl/status/statusor.h"

namespace anneal {

// The text of a PEM file of at most 1 MiB. NOT_FOUND or INVALID_ARGUMENT with the path.
absl::StatusOr<std::string> ReadPemFile(const std::string& path);

}  // namespace anneal
