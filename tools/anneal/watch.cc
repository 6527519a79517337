// anneal watch, wait, logs.

#include <unistd.h>

#include <iostream>
#include <memory>

#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/base/status.h"
#include "tools/anneal/command_line.h"
#include "tools/anneal/follow_command.h"
#include "tools/anneal/follow_log.h"
#include "tools/anneal/job_name.h"
#include "tools/anneal/text.h"

namespace anneal::cli {
namespace {

struct LogOptions {
  std::string job;
  int rank = 0;
  bool prepare = false;
  int64_t generation = 0;
  bool follow = false;
};

absl::StatusOr<ExitCode> Follow(CommandLine& line, const std::string& text, bool show_progress) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  ANNEAL_ASSIGN_OR_RETURN(const std::string name, ResolveJobName(*client, text));
  return FollowAndReport(line, name, {.show_progress = show_progress});
}

absl::StatusOr<ExitCode> PrintLog(CommandLine& line, const LogOptions& options) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  v1::ReadJobLogRequest request;
  ANNEAL_ASSIGN_OR_RETURN(*request.mutable_name(), ResolveJobName(*client, options.job));
  request.set_generation(options.generation);
  request.set_rank(options.prepare ? -1 : options.rank);
  const bool terminal = ::isatty(STDOUT_FILENO) != 0;
  if (options.follow) {
    ANNEAL_RETURN_IF_ERROR(FollowLog(
        *client, request.name(),
        {.rank = request.rank(), .generation = request.generation(), .printable = terminal},
        std::cout, std::cerr, Clock::Real(), Random::Real()));
    return kOk;
  }
  grpc::ClientContext context;
  client->Prepare(context);
  const auto stream = client->jobs().ReadJobLog(&context, request);
  v1::LogChunk chunk;
  while (stream->Read(&chunk)) {
    std::cout << (terminal ? Printable(chunk.data()) : chunk.data()) << std::flush;
    if (!std::cout) context.TryCancel();  // nobody reads on
  }
  const absl::Status status = client->ToStatus(stream->Finish());
  if (!std::cout) return kOk;
  ANNEAL_RETURN_IF_ERROR(status);
  return kOk;
}

}  // namespace

void AddWatchCommands(CommandLine& line) {
  auto job = std::make_shared<std::string>();
  line.AddCommand(nullptr, "watch", "Follow a job to its end",
                  [&line, job] { return Follow(line, *job, true); })
      ->add_option("job", *job, "Job")
      ->required();
  line.AddCommand(nullptr, "wait", "Wait silently until a job has ended",
                  [&line, job] { return Follow(line, *job, false); })
      ->add_option("job", *job, "Job")
      ->required();

  auto options = std::make_shared<LogOptions>();
  CLI::App* logs = line.AddCommand(nullptr, "logs", "Print the log of one process of a job",
                                   [&line, options] { return PrintLog(line, *options); });
  logs->add_option("job", options->job, "Job")->required();
  CLI::Option* rank = logs->add_option("--rank", options->rank, "Trainer (default 0)")
                          ->check(CLI::NonNegativeNumber);
  logs->add_flag("--prepare", options->prepare, "The data check instead of a trainer")
      ->excludes(rank);
  logs->add_option("--generation", options->generation, "Attempt (default: the newest)")
      ->check(CLI::NonNegativeNumber);
  logs->add_flag("--follow,-f", options->follow,
                 "Go on as the log grows, with each further attempt, until the job has ended");
}

}  // namespace anneal::cli
