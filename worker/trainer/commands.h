#pragma once
// The subcommands of anneal-trainer. Each parses its own arguments, says on standard error what is
// wrong, and returns the process's exit code: 0 done, 1 failed, 2 wrong arguments or input, 3
// stopped.

namespace anneal::trainer {

// Trains one rank of one job: for a worker (--socket), or by itself (--task).
int RunCommand(int argc, char** argv);
// Waits, with everything loaded and nothing called, for a worker's task, then does as RunCommand
// (docs/adr/0007-warm-spares.md).
int SpareCommand(int argc, char** argv);
// A model's logits for rows of token ids, into a file.
int LogitsCommand(int argc, char** argv);
// A model's answer to a prompt.
int GenerateCommand(int argc, char** argv);
// One of two ranks that measure collectives between workers, and whether the CUDA library loads:
// for anneal doctor (common/protocol/bench_messages.h).
int BenchCollectiveCommand(int argc, char** argv);
int CheckCudaCommand(int argc, char** argv);

}  // namespace anneal::trainer
