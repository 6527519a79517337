#pragma once
// The control group that this process is in (cgroup v2; cgroups(7)).

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace anneal {

inline constexpr char kCgroupRoot[] = "/sys/fs/cgroup";
inline constexpr char kOwnCgroupFile[] = "/proc/self/cgroup";

// Folders of our control group and of those above it, up to `root`, innermost first. Inside a
// container, which often sees its own group as the root, only that. `own_cgroup_file` is what
// /proc/self/cgroup is: "0::/slice/unit" beside lines of version 1, which are ignored.
std::vector<std::string> OwnCgroupFolders(absl::string_view root,
                                          const std::string& own_cgroup_file);

}  // namespace anneal
