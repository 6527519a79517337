#pragma once
// The last steps in a new child before the program takes over: a mode of anneal-worker, because
// posix_spawn cannot do them and fork is not safe in a process with threads. They run in the child,
// so a storage root that hangs never stops the keeper.

namespace anneal {

//   anneal-worker exec-child --keeper-pid N --run-dir D --log FILE [--lock FILE]...
//                            [--cpus LIST] -- PROGRAM [ARGUMENT]...
//
// Dies with the keeper (PR_SET_PDEATHSIG), is the first victim when memory runs out
// (oom_score_adj), holds the locks for as long as the process lives (flock on descriptors that stay
// open across exec), runs on the processors of the list, and writes to the log. Returns only on
// failure, having left an exit record that says why; the result is the exit status.
int ExecChild(int argc, char** argv);

inline constexpr char kExecChildMode[] = "exec-child";

}  // namespace anneal
