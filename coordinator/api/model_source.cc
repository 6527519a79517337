#include "coordinator/api/model_source.h"

#include <filesystem>
#include <system_error>

#include "common/base/status.h"

namespace anneal {
namespace {

namespace fs = std::filesystem;

absl::Status CheckLinks(const AllowedRoots& allowed_roots, const std::string& directory) {
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    if (!it->is_symlink(error)) continue;
    // A link that leads nowhere is refused by whoever needs it.
    const absl::Status target = allowed_roots.Resolve(it->path().string()).status();
    if (absl::IsPermissionDenied(target)) return target;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelDirectory> ReadAllowedModel(const AllowedRoots& allowed_roots,
                                                const std::string& path) {
  ANNEAL_ASSIGN_OR_RETURN(const std::string real, allowed_roots.Resolve(path));
  ANNEAL_RETURN_IF_ERROR(CheckLinks(allowed_roots, real));
  return ReadModelDirectory(real, allowed_roots.opener());
}

}  // namespace anneal
