#include "worker/trainer/engine/output_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/format/json.h"

namespace anneal::trainer {
namespace {

namespace fs = std::filesystem;

absl::Status Sync(const fs::path& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid() || fsync(fd.get()) != 0)
    return absl::ErrnoToStatus(errno, absl::StrCat("sync ", path.string()));
  return absl::OkStatus();
}

// Runs a filesystem call that throws, as its only errors are the machine's.
template <typename Fn>
absl::Status Try(absl::string_view what, const std::string& path, Fn fn) {
  try {
    fn();
    return absl::OkStatus();
  } catch (const fs::filesystem_error& e) {
    return absl::ErrnoToStatus(e.code().value(), absl::StrCat(what, " ", path));
  }
}

// Every file and folder below `root`, relative, sorted.
absl::StatusOr<std::vector<fs::path>> ListBelow(const std::string& root) {
  std::vector<fs::path> paths;
  ANNEAL_RETURN_IF_ERROR(Try("list", root, [&] {
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root)) {
      paths.push_back(fs::relative(entry.path(), root));
    }
  }));
  std::sort(paths.begin(), paths.end());
  return paths;
}

absl::StatusOr<std::string> ManifestText(const std::string& root,
                                         const std::vector<fs::path>& paths) {
  Json manifest;
  manifest["version"] = 1;
  manifest["files"] = Json::array();
  for (const fs::path& path : paths) {
    const fs::path full = fs::path(root) / path;
    if (!fs::is_regular_file(full)) continue;
    ANNEAL_ASSIGN_OR_RETURN(const std::string hash, Sha256OfFile(full.string()));
    manifest["files"].push_back(
        {{"path", path.string()}, {"bytes", fs::file_size(full)}, {"sha256", hash}});
  }
  return DumpJson(manifest) + "\n";
}

}  // namespace

absl::StatusOr<std::unique_ptr<OutputFolder>> OutputFolder::Create(const std::string& path) {
  ANNEAL_RETURN_IF_ERROR(Try("make output folder", path, [&] {
    fs::remove_all(path);
    fs::create_directories(path);
  }));
  return std::unique_ptr<OutputFolder>(new OutputFolder(path));
}

OutputFolder::~OutputFolder() {
  if (sealed_) return;
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

absl::StatusOr<std::string> OutputFolder::Seal() {
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<fs::path> paths, ListBelow(path_));
  ANNEAL_ASSIGN_OR_RETURN(const std::string manifest, ManifestText(path_, paths));
  for (const fs::path& path : paths) ANNEAL_RETURN_IF_ERROR(Sync(path_ / path));
  ANNEAL_RETURN_IF_ERROR(WriteFileAtomically(path_ + "/manifest.json", manifest));
  ANNEAL_RETURN_IF_ERROR(Sync(path_));
  ANNEAL_RETURN_IF_ERROR(Sync(fs::path(path_).parent_path()));
  sealed_ = true;
  return Sha256Hex(manifest);
}

}  // namespace anneal::trainer
