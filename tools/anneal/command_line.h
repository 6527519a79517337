#pragma once
// The `anneal` command: options, the command that was chosen, and what commands have in common.

#include <functional>
#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "google/protobuf/message.h"
#include "tools/anneal/client.h"
#include "tools/anneal/context.h"
#include "tools/anneal/exit_code.h"

namespace anneal::cli {

// One per run; single-threaded. Commands keep a reference and are run after parsing.
class CommandLine {
 public:
  // Runs the command. An error status is printed and becomes the exit code.
  using Action = std::function<absl::StatusOr<ExitCode>()>;

  CommandLine();

  // A command below `parent` (null = the program). Options go to the returned app; the options of
  // the program may follow them. The action is run if no command below this one was chosen.
  CLI::App* AddCommand(CLI::App* parent, const std::string& name, const std::string& help,
                       Action action);

  // Parses, runs what was chosen, and returns the exit code.
  int Run(int argc, const char* const* argv);

  // The service the user means. Connects once.
  absl::StatusOr<Client*> client();

  bool json() const { return output_ == "json"; }
  // The message in one line of JSON on standard output.
  void PrintJson(const google::protobuf::Message& message) const;

 private:
  // After a parse error: was a command misspelt?
  void SuggestCommand() const;

  CLI::App app_;
  ContextOptions context_options_;
  std::string output_ = "table";
  Action chosen_;
  std::unique_ptr<Client> client_;
};

// Each adds its commands. Defined in the file of the same name.
void AddServiceCommands(CommandLine& line);  // up, down
void AddStartCommands(CommandLine& line);    // init, check
void AddSubmitCommand(CommandLine& line);    // submit, retry
// jobs, get, events, checkpoints, cancel, pause, resume, finish, delete
void AddJobCommands(CommandLine& line);
void AddExplainCommand(CommandLine& line);    // explain
void AddDebugCommand(CommandLine& line);      // debug
void AddDoctorCommand(CommandLine& line);     // doctor
void AddUsageCommand(CommandLine& line);      // usage
void AddWatchCommands(CommandLine& line);     // watch, wait, logs
void AddArtifactCommands(CommandLine& line);  // artifacts, download
void AddKeyCommands(CommandLine& line);       // keys
void AddResourceCommands(CommandLine& line);  // models, files, storage, workers

}  // namespace anneal::cli
