#include "worker/keeper/program_path.h"

#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/str_split.h"

namespace anneal {

std::string OwnProgramPath(const std::string& argv0, const std::string& search_path) {
  constexpr char kSelf[] = "/proc/self/exe";
  std::error_code error;
  std::vector<std::filesystem::path> candidates;
  if (argv0.find('/') != std::string::npos) {
    candidates.emplace_back(argv0);
  } else {
    // An empty part is the present folder, as for the shell.
    for (const std::string& folder : std::vector<std::string>(absl::StrSplit(search_path, ':')))
      candidates.push_back(std::filesystem::path(folder) / argv0);
  }
  for (const std::filesystem::path& candidate : candidates) {
    if (!std::filesystem::equivalent(candidate, kSelf, error)) continue;
    // Not lexically_normal: what ".." means behind a symbolic link only the kernel knows.
    return std::filesystem::absolute(candidate, error).string();
  }
  return std::filesystem::read_symlink(kSelf, error).string();
}

}  // namespace anneal
