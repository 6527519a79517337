#pragma once
// What the subcommands that only read a model share: arguments, errors, exit codes.

#include <functional>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"

namespace anneal::trainer {

// Parses the arguments and runs. Errors go to standard error after the command's name; returns 0
// done, 1 failed, 2 wrong arguments or input.
int ParseAndRun(CLI::App& app, int argc, char** argv, const std::function<absl::Status()>& run);

}  // namespace anneal::trainer
