#include "worker/daemon/cgroup.h"

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/file.h"

namespace anneal {

std::vector<std::string> OwnCgroupFolders(absl::string_view root,
                                          const std::string& own_cgroup_file) {
  const absl::StatusOr<std::string> text = ReadSmallFile(own_cgroup_file);
  std::string path;
  if (text.ok()) {
    for (absl::string_view line : absl::StrSplit(*text, '\n')) {
      if (absl::ConsumePrefix(&line, "0::")) path = std::string(line);
    }
  }
  std::vector<std::string> folders;
  while (path.size() > 1) {
    folders.push_back(absl::StrCat(root, path));
    path.erase(path.rfind('/'));
  }
  folders.emplace_back(root);
  return folders;
}

}  // namespace anneal
