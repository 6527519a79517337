#pragma once
// The last steps in a new child before the program takes over: a mode of anneal-worker, because
// posix_spawn cannot do them and fork is not safe in a process with threads. They run in the child,
// so a storage root that hangs never stops the keeper.

#include <string>
#include <vector>

#include "common/protocol/child_start.h"
#include "worker/supervisor/keeper_link.h"

namespace anneal {

//   anneal-worker exec-child --keeper-pid N [--cpus LIST] [--run-dir D --log FILE [--lock FILE]...]
//                            -- PROGRAM [ARGUMENT]...
//
// Dies with the keeper (PR_SET_PDEATHSIG), is the first victim when memory runs out
// (oom_score_adj), runs on the processors of the list, and enters its run (child_start.h), which a
// spare, without --run-dir, does when it gets its task. Returns only on failure, having left an
// exit record that says why; the result is the exit status.
int ExecChild(int argc, char** argv);

inline constexpr char kExecChildMode[] = "exec-child";

// The arguments that make ExecChild do that, argv[0] and the program's own arguments included; to
// be used by this process for its children. `start`: null for a spare, whose arguments follow.
std::vector<std::string> ChildExecArguments(const std::string& self, const ProcessImage& image,
                                            const protocol::ChildStart* start);

}  // namespace anneal
