// anneal submit, retry: a job file, or a model and data, or another job, to a job.

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/base/status.h"
#include "common/rpc/retry.h"
#include "common/spec/issues.h"
#include "common/spec/references.h"
#include "common/spec/resolve.h"
#include "common/spec/yaml_loader.h"
#include "tools/anneal/command_line.h"
#include "tools/anneal/follow.h"
#include "tools/anneal/follow_command.h"
#include "tools/anneal/job_inputs.h"
#include "tools/anneal/job_name.h"
#include "tools/anneal/text.h"

namespace anneal::cli {
namespace {

struct SubmitOptions {
  std::string job_file;
  std::string model;
  std::vector<std::string> train;
  std::vector<std::string> overrides;
  std::string from;
  bool follow = false;
  bool dry_run = false;
  bool hold = false;
};

void PrintIssues(const std::vector<v1::Issue>& issues) {
  for (const v1::Issue& issue : issues) std::cerr << spec::FormatIssue(issue) << "\n";
}

// What is typed is relative to the current folder, what is written in a job file to that file's.
std::string FromCurrentFolder(const std::string& reference) {
  std::error_code error;
  if (!std::filesystem::exists(reference, error)) return reference;
  const std::filesystem::path absolute = std::filesystem::absolute(reference, error);
  return error ? reference : absolute.string();
}

// The job as the user wrote it, before anything is looked up. False = issues were printed.
bool LoadSpec(const SubmitOptions& options, v1::JobSpec* job, spec::SourceMap* positions) {
  std::vector<v1::Issue> issues;
  if (!options.job_file.empty()) issues = spec::LoadYamlFile(options.job_file, job, positions);
  if (!options.model.empty()) job->set_model(FromCurrentFolder(options.model));
  if (!options.train.empty()) job->mutable_data()->clear_train();
  for (const std::string& file : options.train) {
    job->mutable_data()->add_train(FromCurrentFolder(file));
  }
  for (const std::string& assignment : options.overrides) {
    for (v1::Issue& issue : spec::ApplyOverride(assignment, job))
      issues.push_back(std::move(issue));
  }
  PrintIssues(issues);
  return issues.empty();
}

// What is wrong with the job whatever its model and data are, known before they are sent. False =
// issues were printed.
bool CheckBeforeSending(const SubmitOptions& options, const v1::JobSpec& job,
                        const spec::SourceMap& positions) {
  std::vector<v1::Issue> issues = spec::ResolveJob(job, {}).issues;
  // Local paths become names of the service only when they are sent, and warnings are about a fleet
  // that was not asked.
  const auto is_open = [](const v1::Issue& issue) {
    return issue.severity() != v1::Issue::SEVERITY_ERROR || issue.field() == "model" ||
           absl::StartsWith(issue.field(), "data.train") ||
           absl::StartsWith(issue.field(), "data.validation.files");
  };
  issues.erase(std::remove_if(issues.begin(), issues.end(), is_open), issues.end());
  if (issues.empty()) return true;
  if (!options.job_file.empty()) spec::LocateIssues(options.job_file, positions, &issues);
  PrintIssues(issues);
  return false;
}

// Everything wrong with the job at once, each with its place in the job file. True = it may be
// created.
absl::StatusOr<bool> Check(CommandLine& line, Client& client, const SubmitOptions& options,
                           const v1::JobSpec& job, const spec::SourceMap& positions) {
  v1::CheckJobRequest request;
  *request.mutable_spec() = job;
  ANNEAL_ASSIGN_OR_RETURN(v1::CheckJobResponse response,
                          client.Call(&v1::FineTuningService::StubInterface::CheckJob, request));
  std::vector<v1::Issue> issues(response.issues().begin(), response.issues().end());
  if (!options.job_file.empty()) spec::LocateIssues(options.job_file, positions, &issues);
  PrintIssues(issues);
  if (options.dry_run) {
    if (line.json()) {
      line.PrintJson(response);
    } else {
      std::cout << spec::FormatResolvedJob(response.resolved());
    }
  }
  return !spec::HasErrors(issues);
}

// What a job that goes on from `parent` starts as.
absl::StatusOr<v1::JobSpec> SpecFrom(const v1::Job& parent) {
  v1::JobSpec spec = parent.spec();
  if (parent.state() != v1::JOB_STATE_SUCCEEDED) return spec;
  if (!spec::IsJobModelName(parent.output_model())) {
    return absl::InvalidArgumentError(
        absl::StrCat(parent.name(), " has made ", parent.output_model(),
                     ", and only a whole model can be trained on: give a job file"));
  }
  spec.set_model(parent.output_model());
  return spec;
}

absl::StatusOr<v1::Job> Create(Client& client, const SubmitOptions& options,
                               const v1::JobSpec& spec, const std::string& parent) {
  v1::CreateJobRequest request;
  request.set_parent(parent);
  *request.mutable_spec() = spec;
  request.set_request_id(RandomHex(16, Random::Real()));
  request.set_hold_after_validation(options.hold);
  v1::Job job;
  // The request id makes trying again safe: an answer may have been lost.
  ANNEAL_RETURN_IF_ERROR(
      RetryCall({}, absl::Seconds(10), Clock::Real(), Random::Real(), [&]() -> absl::Status {
        ANNEAL_ASSIGN_OR_RETURN(
            job, client.Call(&v1::FineTuningService::StubInterface::CreateJob, request));
        return absl::OkStatus();
      }));
  return job;
}

absl::StatusOr<ExitCode> Submit(CommandLine& line, const SubmitOptions& options) {
  if (options.job_file.empty() && options.from.empty() &&
      (options.model.empty() || options.train.empty())) {
    return absl::InvalidArgumentError("give a job file, or --model and --train, or --from");
  }
  v1::JobSpec spec;
  std::string parent;
  if (!options.from.empty()) {
    ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
    v1::GetJobRequest request;
    ANNEAL_ASSIGN_OR_RETURN(parent, ResolveJobName(*client, options.from));
    request.set_name(parent);
    ANNEAL_ASSIGN_OR_RETURN(const v1::Job job,
                            client->Call(&v1::FineTuningService::StubInterface::GetJob, request));
    if (options.job_file.empty()) {
      ANNEAL_ASSIGN_OR_RETURN(spec, SpecFrom(job));
    }
  }
  spec::SourceMap positions;
  if (!LoadSpec(options, &spec, &positions)) return kBadInput;
  if (!options.dry_run && !CheckBeforeSending(options, spec, positions)) return kBadInput;
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  const bool from_file = !options.job_file.empty() && options.job_file != "-";
  std::ostream& progress = line.json() ? std::cerr : std::cout;
  const InputOptions inputs{
      .base_folder =
          from_file ? std::filesystem::path(options.job_file).parent_path().string() : "",
      .dry_run = options.dry_run,
      .progress = progress,
      .terminal_width = TerminalWidth(line.json() ? STDERR_FILENO : STDOUT_FILENO)};
  ANNEAL_RETURN_IF_ERROR(SendLocalInputs(*client, inputs, Clock::Real(), Random::Real(), &spec));
  ANNEAL_ASSIGN_OR_RETURN(const bool good, Check(line, *client, options, spec, positions));
  if (!good) return kBadInput;
  if (options.dry_run) return kOk;

  ANNEAL_ASSIGN_OR_RETURN(const v1::Job job, Create(*client, options, spec, parent));
  progress << "submitted job " << IdOf(job.name()) << " ("
           << Printable(job.resolved().spec().display_name()) << ")\n";
  if (options.follow) return FollowAndReport(line, job.name(), {.until_held = options.hold});
  if (line.json()) {
    line.PrintJson(job);
  } else {
    std::cout << "follow it with: anneal watch " << IdOf(job.name()) << "\n";
  }
  return kOk;
}

}  // namespace

void AddSubmitCommand(CommandLine& line) {
  auto options = std::make_shared<SubmitOptions>();
  CLI::App* submit = line.AddCommand(nullptr, "submit", "Submit a job",
                                     [&line, options] { return Submit(line, *options); });
  submit->add_option("job_file", options->job_file,
                     "Job file (YAML or JSON); - reads standard input");
  submit->add_option("--from", options->from,
                     "Carry on what this job began: from its newest checkpoint, or its model");
  submit->add_option("--model", options->model,
                     "Base model: a name of the service or a local folder");
  submit->add_option("--train", options->train, "Training data (JSON lines)");
  submit
      ->add_option("--set", options->overrides,
                   "Change a field: --set training.epochs=2 (repeatable)")
      ->take_all()
      ->allow_extra_args(false);
  submit->add_flag("--follow,-f", options->follow, "Follow the job to its end");
  submit->add_flag("--dry-run", options->dry_run,
                   "Check and show every value the job would run with; create nothing");
  submit->add_flag("--hold", options->hold, "Check the data, then wait for `anneal resume`");

  auto again = std::make_shared<SubmitOptions>();
  CLI::App* retry =
      line.AddCommand(nullptr, "retry",
                      "Submit a failed or cancelled job again, to go on from its newest checkpoint",
                      [&line, again] { return Submit(line, *again); });
  retry->add_option("job", again->from, "Job")->required();
  retry
      ->add_option("--set", again->overrides,
                   "Change a field: --set resources.slots=2 (repeatable)")
      ->take_all()
      ->allow_extra_args(false);
  retry->add_flag("--follow,-f", again->follow, "Follow the job to its end");
}

}  // namespace anneal::cli
