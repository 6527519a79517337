#pragma once
// The other programs of Anneal, which lie beside this one.

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace anneal::cli {

// Full path of `name` beside the running program. NOT_FOUND says where it was looked for.
absl::StatusOr<std::string> FindProgram(absl::string_view name);

// Starts a program in a process group of its own (so that Ctrl-C reaches only us), standard input
// closed, standard output and error appended to `log_file`. The child inherits `kept_fd` (-1 =
// none) and no blocked signals. Returns its process id.
absl::StatusOr<pid_t> StartProgram(const std::vector<std::string>& arguments,
                                   const std::string& log_file, int kept_fd);

// "exit 1" or "killed by signal 9 (Killed)" for a status of waitpid.
std::string DescribeEnd(int wait_status);

}  // namespace anneal::cli
