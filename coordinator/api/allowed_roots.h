#pragma once
// Which paths of the coordinator's machine users may name.

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace anneal {

// Purpose: file:/// references must lie, symbolic links followed, below a folder that the operator
// has allowed, and not in one that is the service's own, wherever that lies: it holds what other
// projects have. Owner: Coordinator. Immutable, so thread-safe.
class AllowedRoots {
 public:
  explicit AllowedRoots(std::vector<std::string> roots, std::vector<std::string> own_folders = {})
      : roots_(std::move(roots)), own_folders_(std::move(own_folders)) {}

  // The path without symbolic links. PERMISSION_DENIED for one outside, or in a folder of
  // our own, said without looking whether it exists; NOT_FOUND for one inside that is not there.
  absl::StatusOr<std::string> Resolve(const std::string& path) const;

 private:
  bool IsOwn(const std::string& real) const;

  const std::vector<std::string> roots_;
  const std::vector<std::string> own_folders_;
};

}  // namespace anneal
