// anneal jobs, get, events, checkpoints, cancel, pause, resume, finish, delete.

#include <iostream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/base/status.h"
#include "common/spec/issues.h"
#include "common/spec/resolve.h"
#include "tools/anneal/command_line.h"
#include "tools/anneal/job_name.h"
#include "tools/anneal/result.h"
#include "tools/anneal/text.h"

namespace anneal::cli {
namespace {

using Jobs = v1::FineTuningService::StubInterface;

absl::StatusOr<v1::Job> GetJob(CommandLine& line, const std::string& text) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  v1::GetJobRequest request;
  ANNEAL_ASSIGN_OR_RETURN(*request.mutable_name(), ResolveJobName(*client, text));
  return client->Call(&Jobs::GetJob, request);
}

std::string StepText(const v1::JobProgress& progress) {
  return progress.total_steps() > 0 ? absl::StrCat(progress.step(), "/", progress.total_steps())
                                    : "-";
}

std::string LossText(const v1::JobProgress& progress) {
  return progress.step() > 0 ? absl::StrFormat("%.4f", progress.train_loss()) : "-";
}

absl::StatusOr<ExitCode> ListJobs(CommandLine& line, int limit) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  v1::ListJobsRequest request;
  request.set_page_size(limit);
  ANNEAL_ASSIGN_OR_RETURN(const v1::ListJobsResponse response,
                          client->Call(&Jobs::ListJobs, request));
  if (line.json()) {
    line.PrintJson(response);
    return kOk;
  }
  Table table({"JOB", "NAME", "STATE", "STEP", "LOSS", "CREATED"});
  const absl::Time now = Clock::Real().TimeNow();
  for (const v1::Job& job : response.jobs()) {
    table.AddRow({std::string(IdOf(job.name())), job.resolved().spec().display_name(),
                  StateName(job.state()), StepText(job.progress()), LossText(job.progress()),
                  FormatAgo(job.has_create_time(), job.create_time(), now)});
  }
  std::cout << table.Format();
  if (!response.next_page_token().empty()) std::cout << "more with --limit\n";
  return kOk;
}

absl::StatusOr<ExitCode> ShowJob(CommandLine& line, const std::string& text) {
  ANNEAL_ASSIGN_OR_RETURN(const v1::Job job, GetJob(line, text));
  if (line.json()) {
    line.PrintJson(job);
    return kOk;
  }
  const absl::Time now = Clock::Real().TimeNow();
  std::cout << "job       " << IdOf(job.name()) << "\n"
            << "name      " << Printable(job.resolved().spec().display_name()) << "\n"
            << "state     " << StateName(job.state())
            << (job.state_message().empty() ? "" : ": " + Printable(job.state_message())) << "\n"
            << "created   " << FormatAgo(job.has_create_time(), job.create_time(), now)
            << (job.creator().empty() ? "" : " by " + Printable(job.creator())) << "\n"
            << "step      " << StepText(job.progress()) << "\n"
            << "loss      " << LossText(job.progress()) << "\n";
  if (job.has_data()) {
    std::cout << "data      " << job.data().train_rows() << " training rows ("
              << FormatCount(job.data().train_tokens()) << " tokens), "
              << job.data().validation_rows() << " validation rows\n";
    for (const v1::Issue& issue : job.data().issues())
      std::cout << "          " << spec::FormatIssue(issue) << "\n";
  }
  if (!job.parent().empty()) std::cout << "from      " << job.parent() << "\n";
  if (!job.output_model().empty()) std::cout << "output    " << job.output_model() << "\n";
  if (job.state() == v1::JOB_STATE_FAILED) std::cout << "error     " << FormatFailure(job);
  const std::string evaluation = FormatBeforeAndAfter(job.result());
  if (!evaluation.empty()) std::cout << "\n" << evaluation;
  std::cout << "\n" << Printable(spec::FormatResolvedJob(job.resolved()));
  return kOk;
}

absl::StatusOr<ExitCode> ListEvents(CommandLine& line, const std::string& text) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  v1::ListJobEventsRequest request;
  ANNEAL_ASSIGN_OR_RETURN(*request.mutable_name(), ResolveJobName(*client, text));
  request.set_page_size(1000);
  do {
    ANNEAL_ASSIGN_OR_RETURN(const v1::ListJobEventsResponse response,
                            client->Call(&Jobs::ListJobEvents, request));
    for (const v1::JobEvent& event : response.events()) {
      if (line.json()) {
        line.PrintJson(event);
        continue;
      }
      std::string text_of_event = event.message();
      if (event.has_issue()) text_of_event = spec::FormatIssue(event.issue());
      std::cout << absl::FormatTime("%Y-%m-%d %H:%M:%S  ", ToTime(event.time()),
                                    absl::LocalTimeZone())
                << Printable(text_of_event) << "\n";
    }
    request.set_after_sequence(response.next_sequence());
  } while (request.after_sequence() != 0);
  return kOk;
}

absl::StatusOr<ExitCode> ListCheckpoints(CommandLine& line, const std::string& text) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  v1::ListCheckpointsRequest request;
  ANNEAL_ASSIGN_OR_RETURN(*request.mutable_name(), ResolveJobName(*client, text));
  ANNEAL_ASSIGN_OR_RETURN(const v1::ListCheckpointsResponse response,
                          client->Call(&Jobs::ListCheckpoints, request));
  if (line.json()) {
    line.PrintJson(response);
    return kOk;
  }
  Table table({"STEP", "GENERATION", "SIZE", "VALIDATION LOSS", "CREATED"});
  const absl::Time now = Clock::Real().TimeNow();
  for (const v1::Checkpoint& checkpoint : response.checkpoints()) {
    table.AddRow({absl::StrCat(checkpoint.step()), absl::StrCat(checkpoint.generation()),
                  FormatBytes(checkpoint.size_bytes()),
                  checkpoint.has_validation_loss()
                      ? absl::StrFormat("%.4f", checkpoint.validation_loss())
                      : "-",
                  FormatAgo(checkpoint.has_create_time(), checkpoint.create_time(), now)});
  }
  std::cout << table.Format();
  return kOk;
}

using ActionMethod = grpc::Status (Jobs::*)(grpc::ClientContext*, const v1::JobActionRequest&,
                                            v1::Job*);

absl::StatusOr<ExitCode> Act(CommandLine& line, const std::string& text, ActionMethod method,
                             int slots = 0) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  v1::JobActionRequest request;
  if (slots > 0) request.set_slots(slots);
  ANNEAL_ASSIGN_OR_RETURN(*request.mutable_name(), ResolveJobName(*client, text));
  request.set_request_id(RandomHex(16, Random::Real()));
  ANNEAL_ASSIGN_OR_RETURN(const v1::Job job, client->Call(method, request));
  if (line.json()) {
    line.PrintJson(job);
  } else {
    std::cout << "job " << IdOf(job.name()) << " is " << StateName(job.state())
              << (job.state_message().empty() ? "" : ": " + Printable(job.state_message())) << "\n";
  }
  return kOk;
}

absl::StatusOr<ExitCode> DeleteJob(CommandLine& line, const std::string& text) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  v1::DeleteJobRequest request;
  ANNEAL_ASSIGN_OR_RETURN(*request.mutable_name(), ResolveJobName(*client, text));
  request.set_request_id(RandomHex(16, Random::Real()));
  ANNEAL_RETURN_IF_ERROR(client->Call(&Jobs::DeleteJob, request).status());
  if (!line.json()) std::cout << "job " << IdOf(request.name()) << " and its outputs are deleted\n";
  return kOk;
}

}  // namespace

void AddJobCommands(CommandLine& line) {
  auto limit = std::make_shared<int>(50);
  line.AddCommand(nullptr, "jobs", "List jobs, newest first",
                  [&line, limit] { return ListJobs(line, *limit); })
      ->add_option("--limit", *limit, "At most so many")
      ->check(CLI::Range(1, 1000));

  auto job = std::make_shared<std::string>();
  const auto add = [&](const std::string& name, const std::string& help,
                       CommandLine::Action action) {
    CLI::App* command = line.AddCommand(nullptr, name, help, std::move(action));
    command->add_option("job", *job, "Job")->required();
    return command;
  };
  add("get", "Show a job and every value it runs with",
      [&line, job] { return ShowJob(line, *job); });
  add("events", "List what happened to a job", [&line, job] { return ListEvents(line, *job); });
  add("checkpoints", "List what a job can be resumed from",
      [&line, job] { return ListCheckpoints(line, *job); });
  add("cancel", "Stop a job and keep nothing",
      [&line, job] { return Act(line, *job, &Jobs::CancelJob); });
  add("pause", "Stop a job at its next step, with a checkpoint, and free its slots",
      [&line, job] { return Act(line, *job, &Jobs::PauseJob); });
  auto slots = std::make_shared<int>(0);
  add("resume", "Start a job that was held, or go on with one that was paused",
      [&line, job, slots] { return Act(line, *job, &Jobs::ResumeJob, *slots); })
      ->add_option("--slots", *slots, "Go on with so many slots (default: as before)")
      ->check(CLI::PositiveNumber);
  add("finish", "Stop a job now and keep the model",
      [&line, job] { return Act(line, *job, &Jobs::FinishJob); });
  add("delete", "Delete a finished job and its outputs",
      [&line, job] { return DeleteJob(line, *job); });
}

}  // namespace anneal::cli
