#include "coordinator/api/allowed_roots.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/storage/open_beneath.h"

namespace anneal {
namespace {

namespace fs = std::filesystem;

bool IsWithin(const fs::path& path, const fs::path& root) {
  return std::mismatch(root.begin(), root.end(), path.begin(), path.end()).first == root.end();
}

}  // namespace

bool AllowedRoots::IsOwn(const std::string& real) const {
  for (const std::string& folder : own_folders_) {
    std::error_code error;
    const fs::path own = fs::weakly_canonical(folder, error);
    // One that cannot be looked at may be anything.
    if (error || IsWithin(real, own)) return true;
  }
  return false;
}

absl::StatusOr<std::string> AllowedRoots::Resolve(const std::string& path) const {
  ANNEAL_ASSIGN_OR_RETURN(Place place, Find(path));
  return std::move(place.path);
}

absl::StatusOr<UniqueFd> AllowedRoots::Open(const std::string& path) const {
  ANNEAL_ASSIGN_OR_RETURN(const Place place, Find(path));
  return OpenBeneath(place.root, place.path);
}

absl::StatusOr<AllowedRoots::Place> AllowedRoots::Find(const std::string& path) const {
  const absl::Status denied =
      WithReason(absl::PermissionDeniedError(absl::StrCat(
                     path, " is not below an allowed folder",
                     roots_.empty() ? " (the coordinator allows none: start it with --allowed-root)"
                                    : absl::StrCat("; allowed: ", absl::StrJoin(roots_, ", ")))),
                 "NOT_ALLOWED");
  const absl::Status denied_own = WithReason(
      absl::PermissionDeniedError(absl::StrCat(
          path,
          " lies in a folder of the service itself, which no job and no import may name: "
          "name files/{file}, models/{model} or jobs/{job}/artifacts/model instead")),
      "NOT_ALLOWED");
  const fs::path normal = fs::path(path).lexically_normal();
  std::error_code error;
  for (const std::string& root : roots_) {
    const fs::path real_root = fs::canonical(root, error);
    if (error) continue;
    if (!IsWithin(normal, fs::path(root).lexically_normal()) && !IsWithin(normal, real_root))
      continue;
    // What may not be named is denied whether it is there or not.
    const fs::path nearest = fs::weakly_canonical(normal, error);
    if (error || IsOwn(nearest.string())) return denied_own;
    const fs::path real = fs::canonical(normal, error);
    if (error)
      return WithReason(absl::NotFoundError(absl::StrCat(path, ": ", error.message())),
                        "NOT_FOUND");
    if (IsOwn(real.string())) return denied_own;
    if (IsWithin(real, real_root)) return Place{real_root.string(), real.string()};
  }
  return denied;
}

}  // namespace anneal
