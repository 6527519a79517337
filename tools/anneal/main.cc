// anneal: the command line of the service. Commands stand in the files named in command_line.h.

#include <csignal>

#include "common/base/log.h"
#include "tools/anneal/command_line.h"

int main(int argc, char** argv) {
  // `anneal jobs | head` ends with a write error and not with a signal, so that what was started is
  // still put away.
  std::signal(SIGPIPE, SIG_IGN);
  anneal::SetMinLogSeverity(anneal::LogSeverity::kWarning);
  anneal::cli::CommandLine line;
  anneal::cli::AddServiceCommands(line);
  anneal::cli::AddStartCommands(line);
  anneal::cli::AddSubmitCommand(line);
  anneal::cli::AddJobCommands(line);
  anneal::cli::AddExplainCommand(line);
  anneal::cli::AddDebugCommand(line);
  anneal::cli::AddDoctorCommand(line);
  anneal::cli::AddUsageCommand(line);
  anneal::cli::AddWatchCommands(line);
  anneal::cli::AddArtifactCommands(line);
  anneal::cli::AddKeyCommands(line);
  anneal::cli::AddResourceCommands(line);
  return line.Run(argc, argv);
}
