#pragma once
// Which paths of the coordinator's machine users may name.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/regular_file.h"

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

  struct Place {
    std::string root;  // the allowed folder, also without symbolic links
    std::string path;
  };
  // The same with the folder below which the path was found.
  absl::StatusOr<Place> Find(const std::string& path) const;

  // Opens a regular file for reading, where Resolve finds it and nowhere else, whatever happens to
  // the links meanwhile. Errors as of Resolve and OpenBeneath.
  absl::StatusOr<UniqueFd> Open(const std::string& path) const;
  // As Open; this object must outlive it.
  FileOpener opener() const {
    return [this](const std::string& path) { return Open(path); };
  }

 private:
  bool IsOwn(const std::string& real) const;

  const std::vector<std::string> roots_;
  const std::vector<std::string> own_folders_;
};

}  // namespace anneal
