#include <sys/prctl.h>

#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/protocol/child_start.h"
#include "common/protocol/run_folder_layout.h"
#include "worker/trainer/commands.h"

namespace anneal::trainer {

int SpareCommand(int argc, char** argv) {
  CLI::App app("Wait for a task on descriptor 3 with all libraries loaded, then run it.",
               "anneal-trainer spare");
  std::string state_dir;
  app.add_option("--state-dir", state_dir, "the worker's; only shown in lists of processes");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  // What ps and top call the process. Nothing of torch is called before the task is there: a first
  // call would fix the number of threads, or for good that there is no GPU, and start threads that
  // hold memory.
  prctl(PR_SET_NAME, "anneal-spare");
  const absl::StatusOr<protocol::ChildStart> start =
      protocol::AwaitChildStart(UniqueFd(protocol::kSpareFd));
  if (!start.ok()) return 0;  // the worker is gone, or keeps no spare
  prctl(PR_SET_NAME, "anneal-trainer");
  SetLogContext("trainer", protocol::TaskFieldsOf(start->run_dir));
  if (const absl::Status entered = protocol::EnterRun(*start); !entered.ok()) {
    return protocol::LeaveUnstarted(start->run_dir, entered);
  }
  std::vector<std::string> arguments = start->arguments;
  std::vector<char*> pointers = {argv[0]};
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  return RunCommand(static_cast<int>(arguments.size()) + 1, pointers.data());
}

}  // namespace anneal::trainer
