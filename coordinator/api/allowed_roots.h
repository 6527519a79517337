#pragma once
// Which paths of the coordinator's machine users may name.

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace anneal {

// Purpose: file:/// references must lie, symbolic links followed, below a folder that the operator
// has allowed. Owner: Coordinator. Immutable, so thread-safe.
class AllowedRoots {
 public:
  explicit AllowedRoots(std::vector<std::string> roots) : roots_(std::move(roots)) {}

  // The path without symbolic links. PERMISSION_DENIED for one outside, said without looking
  // whether it exists; NOT_FOUND for one inside that is not there.
  absl::StatusOr<std::string> Resolve(const std::string& path) const;

 private:
  const std::vector<std::string> roots_;
};

}  // namespace anneal
