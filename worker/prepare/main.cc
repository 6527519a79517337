// anneal-prepare: data files to prepared data sets. Knows tokenizers and chat templates; no torch,
// no GPU.

#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>

#include "absl/status/status.h"
#include "common/base/log.h"
#include "common/base/log_format.h"
#include "common/base/version.h"
#include "worker/prepare/commands.h"

namespace {

struct Command {
  const char* name;
  int (*run)(int argc, char** argv);
  const char* help;
};
constexpr Command kCommands[] = {
    {"run", anneal::prepare::RunCommand, "prepare the data of one job (the default)"},
    {"check", anneal::prepare::CheckCommand, "check data files against a model"},
};

void PrintUsage(std::FILE* out) {
  std::fprintf(
      out,
      "usage: anneal-prepare [COMMAND] [ARGUMENTS]; --help after a command shows its arguments\n");
  for (const Command& command : kCommands) {
    std::fprintf(out, "  %-6s %s\n", command.name, command.help);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  anneal::SetLogContext("prepare");
  if (absl::Status status = anneal::SetUpLogsFromEnvironment(); !status.ok()) {
    std::fprintf(stderr, "anneal-prepare: %s\n", std::string(status.message()).c_str());
    return anneal::prepare::kExitBadInput;
  }
  if (argc >= 2 && (std::strcmp(argv[1], "--help") == 0 || std::strcmp(argv[1], "-h") == 0)) {
    PrintUsage(stdout);
    return anneal::prepare::kExitOk;
  }
  if (argc >= 2 && std::strcmp(argv[1], "--version") == 0) {
    std::printf("anneal-prepare %s\n", std::string(anneal::Version()).c_str());
    return anneal::prepare::kExitOk;
  }
  if (argc >= 2 && argv[1][0] == '-') return anneal::prepare::RunCommand(argc, argv);
  for (const Command& command : kCommands) {
    if (argc >= 2 && std::strcmp(argv[1], command.name) == 0) {
      return command.run(argc - 1, argv + 1);
    }
  }
  PrintUsage(stderr);
  return anneal::prepare::kExitBadInput;
}
