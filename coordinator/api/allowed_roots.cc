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
  const fs::path normal = fs::path(path).lexically_normal();
  std::error_code error;
  for (const std::string& root : roots_) {
    const fs::path real_root = fs::canonical(root, error);
    if (error) continue;
    if (!IsWithin(normal, fs::path(root).lexically_normal()) && !IsWithin(normal, real_root))
      continue;
    const fs::path real = fs::canonical(normal, error);
    if (error)
      return WithReason(absl::NotFoundError(absl::StrCat(path, ": ", error.message())),
                        "NOT_FOUND");
    if (IsWithin(real, real_root)) return Place{real_root.string(), real.string()};
  }
  return denied;
}

}  // namespace anneal
