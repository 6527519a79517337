// anneal-trainer: one rank of a fine-tuning job, and the tools that need the same model code.

#include <c10/util/Logging.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "common/base/log.h"
#include "common/base/log_format.h"
#include "common/base/version.h"
#include "worker/trainer/commands.h"

namespace {

// Libraries read these when they are loaded, so the program starts itself again with them.
// MKL_CBWR=AUTO makes matrix products independent of the alignment of their arguments; the
// workspace does the same for cuBLAS.
void EnsureEnvironment(char** argv) {
  // Read at its first use. oneDNN keeps the code it has generated for each shape of a product, half
  // a megabyte each; its own 1,024 shapes would take as much as a small model.
  setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128", /*overwrite=*/0);
  if (std::getenv("MKL_CBWR") != nullptr) return;
  setenv("MKL_CBWR", "AUTO", /*overwrite=*/0);
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  execv("/proc/self/exe", argv);
  std::perror("anneal-trainer: restart with MKL_CBWR=AUTO");
  std::exit(1);
}

struct Command {
  const char* name;
  int (*run)(int argc, char** argv);
  const char* help;
};
constexpr Command kCommands[] = {
    {"run", anneal::trainer::RunCommand, "train one rank of a job (the default)"},
    {"spare", anneal::trainer::SpareCommand, "wait for a worker's task, then train"},
    {"logits", anneal::trainer::LogitsCommand, "write a model's logits for rows of token ids"},
    {"generate", anneal::trainer::GenerateCommand, "answer a prompt with a model and an adapter"},
    {"bench-collective", anneal::trainer::BenchCollectiveCommand,
     "measure collectives between two workers"},
    {"check-cuda", anneal::trainer::CheckCudaCommand, "say what the CUDA library finds"},
};

void PrintUsage(std::FILE* out) {
  std::fprintf(
      out,
      "usage: anneal-trainer [COMMAND] [ARGUMENTS]; --help after a command shows its arguments\n");
  for (const Command& command : kCommands)
    std::fprintf(out, "  %-16s %s\n", command.name, command.help);
}

}  // namespace

int main(int argc, char** argv) {
  EnsureEnvironment(argv);
  signal(SIGPIPE, SIG_IGN);
  // Our errors are sentences for people; torch would add a page of addresses to each.
  c10::SetStackTraceFetcher([]() -> std::string { return ""; });

  anneal::SetLogContext("trainer");
  if (absl::Status status = anneal::SetUpLogsFromEnvironment(); !status.ok()) {
    std::fprintf(stderr, "anneal-trainer: %s\n", std::string(status.message()).c_str());
    return 2;
  }
  const std::string first = argc < 2 ? "" : argv[1];
  if (first == "--help" || first == "-h") {
    PrintUsage(stdout);
    return 0;
  }
  if (first == "--version") {
    std::printf("anneal-trainer %s\n", std::string(anneal::Version()).c_str());
    return 0;
  }
  if (first.rfind('-', 0) == 0) return anneal::trainer::RunCommand(argc, argv);
  for (const Command& command : kCommands) {
    if (first == command.name) return command.run(argc - 1, argv + 1);
  }
  PrintUsage(stderr);
  return 2;
}
