// anneal init, check: before there is a service.

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "tools/anneal/command_line.h"
#include "tools/anneal/programs.h"
#include "tools/anneal/templates.h"

namespace anneal::cli {
namespace {

namespace fs = std::filesystem;

struct CheckOptions {
  std::vector<std::string> data;
  std::vector<std::string> validation;
  std::string model;
  std::string train_on;
  std::string over_length;
  int64_t max_length = 0;
};

absl::Status WriteNewFile(const fs::path& path, const char* text) {
  std::error_code error;
  if (fs::exists(path, error)) {
    return absl::AlreadyExistsError(
        absl::StrCat(path.string(), " exists; nothing was written over"));
  }
  std::ofstream out(path, std::ios::binary);
  out << text;
  out.close();
  if (!out) return absl::FailedPreconditionError(absl::StrCat("cannot write ", path.string()));
  std::cout << "wrote " << path.string() << "\n";
  return absl::OkStatus();
}

absl::StatusOr<ExitCode> Init(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  ANNEAL_RETURN_IF_ERROR(WriteNewFile(fs::path(folder) / "train.jsonl", kSampleData));
  ANNEAL_RETURN_IF_ERROR(WriteNewFile(fs::path(folder) / "job.yaml", kSampleJob));
  std::cout << "name a model in job.yaml, then: anneal submit job.yaml --follow\n";
  return kOk;
}

// Becomes anneal-prepare, whose output and exit code are the command's.
absl::StatusOr<ExitCode> Check(CommandLine& line, const CheckOptions& options) {
  ANNEAL_ASSIGN_OR_RETURN(const std::string program, FindProgram("anneal-prepare"));
  std::vector<std::string> arguments = {program, "check"};
  arguments.insert(arguments.end(), options.data.begin(), options.data.end());
  arguments.insert(arguments.end(), {"--model", options.model});
  for (const std::string& file : options.validation)
    arguments.insert(arguments.end(), {"--validation", file});
  if (options.max_length > 0)
    arguments.insert(arguments.end(), {"--max-length", absl::StrCat(options.max_length)});
  if (!options.over_length.empty())
    arguments.insert(arguments.end(), {"--over-length", options.over_length});
  if (!options.train_on.empty())
    arguments.insert(arguments.end(), {"--train-on", options.train_on});
  if (line.json()) arguments.insert(arguments.end(), {"--output", "json"});
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  ::execv(program.c_str(), argv.data());
  return absl::InternalError(absl::StrCat("cannot run ", program, ": ", std::strerror(errno)));
}

}  // namespace

void AddStartCommands(CommandLine& line) {
  auto folder = std::make_shared<std::string>(".");
  line.AddCommand(nullptr, "init", "Write a commented job.yaml and a sample train.jsonl",
                  [folder] { return Init(*folder); })
      ->add_option("folder", *folder, "Where (default: the current folder)");

  auto options = std::make_shared<CheckOptions>();
  CLI::App* check =
      line.AddCommand(nullptr, "check", "Check data files against a model, without a service",
                      [&line, options] { return Check(line, *options); });
  check->add_option("data", options->data, "Data files (JSON lines)")->required();
  check->add_option("--model", options->model, "Hugging Face folder")->required();
  check
      ->add_option("--validation", options->validation,
                   "Held-out data, also searched for training rows (repeatable)")
      ->allow_extra_args(false);
  check->add_option("--max-length", options->max_length, "Tokens a row may have")
      ->check(CLI::PositiveNumber);
  check->add_option("--over-length", options->over_length,
                    "What is done with longer rows: REJECT, TRUNCATE or DROP");
  check->add_option("--train-on", options->train_on,
                    "What counts for the loss: ASSISTANT, LAST_TURN or ALL");
}

}  // namespace anneal::cli
