#pragma once
// The commands of anneal-prepare. Each takes the arguments after its name and returns the program's
// exit code: 0 all rows are good, 2 bad rows or bad arguments, 1 anything else.

namespace anneal::prepare {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitBadInput = 2;

// Prepares a job's data: for a worker (--socket), or by itself (--task).
int RunCommand(int argc, char** argv);
// Checks data files against a model and says what is wrong with them, for people and for `anneal
// check`.
int CheckCommand(int argc, char** argv);

}  // namespace anneal::prepare
