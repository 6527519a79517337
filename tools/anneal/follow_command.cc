#include "tools/anneal/follow_command.h"

#include <unistd.h>

#include <filesystem>
#include <iostream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/base/status.h"
#include "common/spec/references.h"
#include "common/storage/layout.h"
#include "tools/anneal/follow.h"
#include "tools/anneal/result.h"
#include "tools/anneal/text.h"

namespace anneal::cli {
namespace {

// What vLLM should load below the adapter: where the model came from, if that is known, else its
// folder. `storage_root` is empty if the service does not tell it.
absl::StatusOr<std::string> BaseModelOf(Client& client, const v1::Job& job,
                                        const std::string& storage_root) {
  const std::string& model = job.resolved().spec().model();
  if (spec::IsFileUri(model)) return spec::PathOfFileUri(model);
  if (storage_root.empty() || !IsSafeRelativePath(job.project())) return model;
  if (spec::IsModelName(model)) {
    v1::GetModelRequest request;
    request.set_name(model);
    ANNEAL_ASSIGN_OR_RETURN(const v1::Model found,
                            client.Call(&v1::ModelService::StubInterface::GetModel, request));
    if (!found.source_id().empty()) return found.source_id();
    return absl::StrCat(storage_root, "/",
                        ModelPath(job.project(), absl::StripPrefix(model, "models/")));
  }
  if (!spec::IsJobModelName(model)) return model;
  const std::vector<std::string> parts = absl::StrSplit(model, '/');  // jobs/{job}/artifacts/model
  return absl::StrCat(storage_root, "/", OutputPath(parts[1]), "/model");
}

absl::Status PrintSuccess(Client& client, const v1::Job& job) {
  std::cout << "\n" << FormatBeforeAndAfter(job.result());
  const v1::JobResult& result = job.result();
  std::cout << "training loss " << absl::StrCat(result.first_loss()) << " -> "
            << absl::StrCat(result.last_loss()) << ", " << job.progress().total_steps()
            << " steps in " << ShortDuration(absl::Seconds(result.train_time().seconds()))
            << "\n\n";

  v1::ListArtifactsRequest request;
  request.set_parent(job.name());
  ANNEAL_ASSIGN_OR_RETURN(const v1::ListArtifactsResponse artifacts,
                          client.Call(&v1::ArtifactService::StubInterface::ListArtifacts, request));
  std::string folder = absl::StrCat("outputs-", IdOf(job.name()));
  std::string storage_root;
  if (spec::IsFileUri(artifacts.folder_uri())) {
    const std::filesystem::path shared = spec::PathOfFileUri(artifacts.folder_uri());
    storage_root = shared.parent_path().parent_path().string();
  }
  if (client.context().shares_disk && !storage_root.empty()) {
    folder = spec::PathOfFileUri(artifacts.folder_uri());
    std::cout << "outputs   " << folder << "\n";
  } else {
    std::cout << "download  anneal download " << IdOf(job.name()) << " --to " << folder << "\n";
  }
  ANNEAL_ASSIGN_OR_RETURN(const std::string base, BaseModelOf(client, job, storage_root));
  std::cout << "serve     " << VllmServeLine(job, folder, base) << "\n";
  return absl::OkStatus();
}

absl::Status PrintEnd(Client& client, const v1::Job& job) {
  const std::string took = job.has_finish_time()
                               ? absl::StrCat(" after ", ShortDuration(ToTime(job.finish_time()) -
                                                                       ToTime(job.create_time())))
                               : "";
  std::cout << "job " << IdOf(job.name()) << " is " << StateName(job.state()) << took << "\n";
  switch (job.state()) {
    case v1::JOB_STATE_SUCCEEDED:
      return PrintSuccess(client, job);
    case v1::JOB_STATE_FAILED:
      std::cerr << "error: " << FormatFailure(job);
      return absl::OkStatus();
    case v1::JOB_STATE_VALIDATED:
    case v1::JOB_STATE_PAUSED:
      std::cout << "start it with: anneal resume " << IdOf(job.name()) << "\n";
      return absl::OkStatus();
    default:
      return absl::OkStatus();
  }
}

}  // namespace

absl::StatusOr<ExitCode> FollowAndReport(CommandLine& line, const std::string& job_name,
                                         const FollowStyle& style) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  FollowOptions options{.until_held = style.until_held};
  if (style.show_progress) {
    options.progress = line.json() ? &std::cerr : &std::cout;
    options.terminal_width = TerminalWidth(line.json() ? STDERR_FILENO : STDOUT_FILENO);
  }
  ANNEAL_ASSIGN_OR_RETURN(const Followed followed,
                          FollowJob(*client, job_name, options, Clock::Real(), Random::Real()));
  if (followed.detached) {
    std::cerr << "\nno longer following; the job goes on. To return: anneal watch "
              << IdOf(job_name) << "\n";
    return kOk;
  }
  const v1::Job& job = followed.job;
  const ExitCode code = style.until_held && !IsTerminal(job.state()) ? kOk : ExitCodeOf(job);
  if (line.json()) {
    line.PrintJson(job);
  } else {
    ANNEAL_RETURN_IF_ERROR(PrintEnd(*client, job));
  }
  return code;
}

}  // namespace anneal::cli
