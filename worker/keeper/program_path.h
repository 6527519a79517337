#pragma once
// Where a program was started from.

#include <string>

namespace anneal {

// The absolute path under which this program was started, by argv[0], with its symbolic links as
// they are: of /opt/anneal/current/bin/anneal-worker the one that is current when it is started
// again. A name without a slash is looked up along `search_path` (PATH). Where that does not lead
// to the running program, as after `exec -a`, what /proc/self/exe says.
std::string OwnProgramPath(const std::string& argv0, const std::string& search_path);

}  // namespace anneal
