#pragma once
// Which paths of the coordinator's machine users may name.

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "common/base/regular_file.h"

namespace anneal {

// Purpose: file:/// references must lie, symbolic links followed, below a folder that the operator
// has allowed, and not in one that is the service's own, wherever that lies: it holds what other
// projects have. Where these folders really lie is looked up once a second at most; a user's path
// each time. Owner: Coordinator. Thread-safe.
class AllowedRoots {
 public:
  explicit AllowedRoots(std::vector<std::string> roots, std::vector<std::string> own_folders = {},
                        Clock& clock = Clock::Real())
      : clock_(clock),
        roots_(std::move(roots)),
        normal_roots_(Normal(roots_)),
        own_folders_(std::move(own_folders)) {}

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
  // Where the folders lie, symbolic links followed; nothing for one that cannot be looked at.
  struct RealFolders {
    absl::Duration seen;
    std::vector<std::optional<std::string>> roots;
    std::vector<std::optional<std::string>> own;
  };
  std::shared_ptr<const RealFolders> Look() const;
  static std::vector<std::string> Normal(const std::vector<std::string>& roots);

  Clock& clock_;
  const std::vector<std::string> roots_;
  const std::vector<std::string> normal_roots_;  // without "." and ".."
  const std::vector<std::string> own_folders_;

  mutable absl::Mutex mu_;
  // The last look, if it has found our own folders; else null.
  mutable std::shared_ptr<const RealFolders> known_ ABSL_GUARDED_BY(mu_);
};

}  // namespace anneal
