#pragma once
// posix_spawn with what the worker's processes need: an own process group, no inherited signal
// settings, nothing open but the standard descriptors.

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace anneal {

struct SpawnOptions {
  std::string program;                 // absolute path
  std::vector<std::string> arguments;  // with argv[0]
  std::map<std::string, std::string> environment;
  // Becomes descriptor `inherited_as` of the child. -1 = none. All others are close-on-exec by the
  // rule of this code base.
  int inherited_fd = -1;
  int inherited_as = -1;
  // Its standard output and error. -1 = ours.
  int output_fd = -1;
  int error_fd = -1;
};
// Standard input is /dev/null.
absl::StatusOr<pid_t> Spawn(const SpawnOptions& options);

// The environment of this process. Read once, at the start of main.
std::map<std::string, std::string> ReadEnvironment();

}  // namespace anneal
