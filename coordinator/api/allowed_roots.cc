#include "coordinator/api/allowed_roots.h"

#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "common/storage/open_beneath.h"

namespace anneal {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kHold = absl::Seconds(1);

// Both absolute and without "." and "..".
bool IsWithin(absl::string_view path, absl::string_view root) {
  root = absl::StripSuffix(root, "/");
  return absl::ConsumePrefix(&path, root) && (path.empty() || path.front() == '/');
}

// fs::canonical, which asks for each folder on the way; this lets the kernel walk the path once.
// Every submit looks up several.
std::string RealPath(const std::string& path, std::error_code& error) {
  error.clear();
  const UniqueFd place(::open(path.c_str(), O_PATH | O_CLOEXEC));
  if (place.valid()) {
    std::array<char, PATH_MAX> name{};
    const ssize_t length =
        ::readlink(absl::StrCat("/proc/self/fd/", place.get()).c_str(), name.data(), name.size());
    const absl::string_view real(name.data(), length < 0 ? 0 : static_cast<size_t>(length));
    // Not so without /proc, and for what was removed or lies outside our root.
    if (absl::StartsWith(real, "/") && real.size() < name.size() &&
        !absl::EndsWith(real, " (deleted)")) {
      return std::string(real);
    }
  }
  return fs::canonical(path, error).string();
}

bool IsWithinAny(absl::string_view path, const std::vector<std::optional<std::string>>& folders) {
  return std::any_of(folders.begin(), folders.end(), [&](const auto& folder) {
    // One that cannot be looked at may be anything.
    return !folder.has_value() || IsWithin(path, *folder);
  });
}

// "/." so that one that is mounted on demand is.
std::string RealFolder(const std::string& path, std::error_code& error) {
  return RealPath(absl::StrCat(path, "/."), error);
}

absl::Status NotFound(const std::string& path, const std::error_code& error) {
  return WithReason(absl::NotFoundError(absl::StrCat(path, ": ", error.message())), "NOT_FOUND");
}

absl::Status NotSeen(const std::string& path, const std::error_code& error) {
  return WithReason(absl::PermissionDeniedError(absl::StrCat(
                        "the coordinator cannot look at ", path, ": ", error.message(),
                        "; let its account pass through the folders above it, and read it")),
                    "NOT_ALLOWED");
}

absl::Status DeniedAsOwn(const std::string& path) {
  return WithReason(
      absl::PermissionDeniedError(absl::StrCat(
          path,
          " lies in a folder of the service itself, which no job and no import may name: "
          "name files/{file}, models/{model} or jobs/{job}/artifacts/model instead")),
      "NOT_ALLOWED");
}

}  // namespace

std::shared_ptr<const AllowedRoots::RealFolders> AllowedRoots::Look() const {
  const absl::Duration now = clock_.MonotonicNow();
  {
    absl::MutexLock lock(&mu_);
    if (known_ != nullptr && now < known_->seen + kHold) return known_;
  }
  auto folders = std::make_shared<RealFolders>();
  folders->seen = now;
  bool own_there = true;
  std::error_code error;
  for (const std::string& root : roots_) {
    std::string real = RealFolder(root, error);
    folders->roots.push_back(error ? std::nullopt : std::optional(std::move(real)));
  }
  for (const std::string& own : own_folders_) {
    std::string real = RealFolder(own, error);
    if (error) {
      own_there = false;
      real = fs::weakly_canonical(own, error).string();
    }
    folders->own.push_back(error ? std::nullopt : std::optional(std::move(real)));
  }
  absl::MutexLock lock(&mu_);
  known_ = own_there ? folders : nullptr;
  return folders;
}

std::vector<std::string> AllowedRoots::Normal(const std::vector<std::string>& roots) {
  std::vector<std::string> normal;
  for (const std::string& root : roots)
    normal.push_back(fs::path(root).lexically_normal().string());
  return normal;
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
  const std::string normal = fs::path(path).lexically_normal().string();
  const std::shared_ptr<const RealFolders> folders = Look();
  for (size_t i = 0; i < roots_.size(); ++i) {
    if (!folders->roots[i].has_value()) continue;
    const std::string& real_root = *folders->roots[i];
    if (!IsWithin(normal, normal_roots_[i]) && !IsWithin(normal, real_root)) continue;
    std::error_code error;
    std::string real = RealPath(normal, error);
    if (error) {
      // What may not be named is denied whether it is there or not.
      std::error_code unknown;
      const std::string nearest = fs::weakly_canonical(normal, unknown).string();
      if (unknown) return NotSeen(path, unknown);
      if (IsWithinAny(nearest, folders->own)) return DeniedAsOwn(path);
      if (!IsWithin(nearest, real_root)) continue;
      return NotFound(path, error);
    }
    if (IsWithinAny(real, folders->own)) return DeniedAsOwn(path);
    if (IsWithin(real, real_root)) return Place{real_root, std::move(real)};
  }
  return WithReason(
      absl::PermissionDeniedError(absl::StrCat(
          path, " is not below an allowed folder",
          roots_.empty() ? " (the coordinator allows none: start it with --allowed-root)"
                         : absl::StrCat("; allowed: ", absl::StrJoin(roots_, ", ")))),
      "NOT_ALLOWED");
}

}  // namespace anneal
