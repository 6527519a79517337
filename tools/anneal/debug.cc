// anneal debug: everything about a job that helps whoever is asked for help, in one archive.

#include <algorithm>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/config/version.h"
#include "common/format/json.h"
#include "common/spec/message_json.h"
#include "tools/anneal/command_line.h"
#include "tools/anneal/history.h"
#include "tools/anneal/job_name.h"
#include "tools/anneal/tar_writer.h"
#include "tools/anneal/text.h"

namespace anneal::cli {
namespace {

using Jobs = v1::FineTuningService::StubInterface;

// Of each log the end is kept; of a job that has failed often, the last attempts.
constexpr size_t kMaxLogBytes = 4 << 20;
constexpr int64_t kMaxGenerations = 10;
constexpr int kMaxRanks = 1024;
// How long ranks may take to write where they stand. One that is stopped never does.
constexpr absl::Duration kStacksPatience = absl::Seconds(5);
constexpr absl::Duration kLookAgain = absl::Milliseconds(200);
// What a trainer writes after the stacks of its threads (common/base/thread_stacks.h).
constexpr char kEndOfStacks[] = "\nend of stacks\n";

// One archive that is being filled. What cannot be had is said in it, and the rest goes on: the job
// it is for is rarely well.
class Collection {
 public:
  Collection(Client& client, std::string job, TarWriter& tar)
      : client_(client), job_(std::move(job)), tar_(tar), now_(Clock::Real().TimeNow()) {}

  absl::Status CollectAll() {
    ANNEAL_RETURN_IF_ERROR(AddVersions());
    v1::GetJobRequest request;
    request.set_name(job_);
    ANNEAL_ASSIGN_OR_RETURN(const v1::Job job, client_.Call(&Jobs::GetJob, request));
    ANNEAL_RETURN_IF_ERROR(Add("job.json", ToText(job)));
    AwaitStacks(job);
    ANNEAL_RETURN_IF_ERROR(AddLines("events.jsonl", ReadEvents(client_, job_)));
    ANNEAL_RETURN_IF_ERROR(AddLines("steps.jsonl", ReadSteps(client_, job_)));
    v1::ListCheckpointsRequest checkpoints;
    checkpoints.set_name(job_);
    ANNEAL_RETURN_IF_ERROR(
        AddAnswer("checkpoints.json", client_.Call(&Jobs::ListCheckpoints, checkpoints)));
    ANNEAL_RETURN_IF_ERROR(AddAnswer(
        "workers.json",
        client_.Call(&v1::ClusterService::StubInterface::ListWorkers, v1::ListWorkersRequest())));
    ANNEAL_RETURN_IF_ERROR(AddLog("prepare.log", 0, -1).status());
    const int64_t newest = job.generation();
    for (int64_t g = std::max<int64_t>(1, newest - kMaxGenerations + 1); g <= newest; ++g) {
      bool found = true;
      for (int rank = 0; found && rank < kMaxRanks; ++rank) {
        ANNEAL_ASSIGN_OR_RETURN(found,
                                AddLog(absl::StrCat("g", g, "/rank", rank, ".log"), g, rank));
      }
    }
    if (!missing_.empty()) ANNEAL_RETURN_IF_ERROR(Add("missing.txt", missing_));
    return tar_.Finish();
  }

 private:
  static std::string ToText(const google::protobuf::Message& message) {
    return absl::StrCat(DumpJson(spec::MessageToJson(message)), "\n");
  }
  absl::Status Add(const std::string& name, const std::string& content) {
    return tar_.Add(absl::StrCat("anneal-debug-", IdOf(job_), "/", name), content, now_);
  }
  // Of the workers each says its own in workers.json.
  absl::Status AddVersions() {
    Json versions = {{"anneal", Version()}};
    const absl::StatusOr<v1::Coordinator> coordinator = client_.Call(
        &v1::ClusterService::StubInterface::GetCoordinator, v1::GetCoordinatorRequest());
    if (coordinator.ok()) {
      versions["coordinator"] = coordinator->version();
    } else {
      Miss("the coordinator's version", coordinator.status());
    }
    return Add("versions.json", absl::StrCat(DumpJson(versions), "\n"));
  }
  void Miss(const std::string& name, const absl::Status& why) {
    absl::StrAppend(&missing_, name, ": ", why.ToString(), "\n");
  }
  template <typename Answer>
  absl::Status AddAnswer(const std::string& name, const absl::StatusOr<Answer>& answer) {
    if (answer.ok()) return Add(name, ToText(*answer));
    Miss(name, answer.status());
    return absl::OkStatus();
  }
  template <typename Item>
  absl::Status AddLines(const std::string& name, const absl::StatusOr<std::vector<Item>>& items) {
    if (!items.ok()) {
      Miss(name, items.status());
      return absl::OkStatus();
    }
    std::string lines;
    for (const Item& item : *items) absl::StrAppend(&lines, ToText(item));
    return Add(name, lines);
  }
  // Has the ranks of a job that trains write to their logs where they stand, and waits for them.
  void AwaitStacks(const v1::Job& job) {
    const int64_t generation = job.generation();
    std::vector<int64_t> before;  // of each rank that has a log
    while (before.size() < kMaxRanks) {
      const std::optional<int64_t> count = CountStacks(generation, before.size());
      if (!count.has_value()) break;
      before.push_back(*count);
    }
    v1::JobActionRequest request;
    request.set_name(job_);
    const absl::Status asked = client_.Call(&Jobs::RequestStacks, request).status();
    if (absl::IsFailedPrecondition(asked)) return;  // it has no ranks now
    if (!asked.ok()) return Miss("where the ranks stand", asked);
    Clock& clock = Clock::Real();
    const absl::Duration until = clock.MonotonicNow() + kStacksPatience;
    for (size_t rank = 0; rank < before.size(); ++rank) {
      while (CountStacks(generation, rank).value_or(0) <= before[rank]) {
        if (clock.MonotonicNow() >= until) {
          Miss(absl::StrCat("where rank ", rank, " stands"),
               absl::DeadlineExceededError("it has not said so in time"));
          break;
        }
        clock.Sleep(kLookAgain);
      }
    }
  }
  // How often the rank has written its stacks, as far as the end of its log shows.
  std::optional<int64_t> CountStacks(int64_t generation, size_t rank) {
    std::string log;
    if (!ReadLog(generation, static_cast<int>(rank), &log).ok()) return std::nullopt;
    const std::vector<absl::string_view> parts = absl::StrSplit(log, kEndOfStacks);
    return static_cast<int64_t>(parts.size()) - 1;
  }
  // Whether there is such a log.
  absl::StatusOr<bool> AddLog(const std::string& name, int64_t generation, int rank) {
    std::string log;
    const absl::Status status = ReadLog(generation, rank, &log);
    if (absl::IsNotFound(status)) return false;
    if (!status.ok()) Miss(name, status);
    ANNEAL_RETURN_IF_ERROR(Add(absl::StrCat("logs/", name), log));
    return status.ok();
  }
  // The log's end, or as much of it as came.
  absl::Status ReadLog(int64_t generation, int rank, std::string* log) {
    v1::ReadJobLogRequest request;
    request.set_name(job_);
    request.set_generation(generation);
    request.set_rank(rank);
    grpc::ClientContext context;
    client_.Prepare(context, absl::Minutes(2));
    const auto stream = client_.jobs().ReadJobLog(&context, request);
    for (v1::LogChunk chunk; stream->Read(&chunk);) {
      *log += chunk.data();
      if (log->size() > 2 * kMaxLogBytes) log->erase(0, log->size() - kMaxLogBytes);
    }
    if (log->size() > kMaxLogBytes) log->erase(0, log->size() - kMaxLogBytes);
    return client_.ToStatus(stream->Finish());
  }

  Client& client_;
  const std::string job_;
  TarWriter& tar_;
  const absl::Time now_;
  std::string missing_;
};

absl::StatusOr<ExitCode> Debug(CommandLine& line, const std::string& text, std::string path) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  ANNEAL_ASSIGN_OR_RETURN(const std::string job, ResolveJobName(*client, text));
  if (path.empty()) path = absl::StrCat("anneal-debug-", IdOf(job), ".tar");
  ANNEAL_ASSIGN_OR_RETURN(TarWriter tar, TarWriter::Create(path));
  ANNEAL_RETURN_IF_ERROR(Collection(*client, job, tar).CollectAll());
  std::cout << path << "\n";
  std::cerr << "it holds settings, events, numbers and logs of the job, no data, no weights and no "
               "keys; look into it before you hand it on\n";
  return kOk;
}

}  // namespace

void AddDebugCommand(CommandLine& line) {
  auto job = std::make_shared<std::string>();
  auto path = std::make_shared<std::string>();
  CLI::App* debug = line.AddCommand(
      nullptr, "debug", "Pack what is known about a job into one archive, to ask for help",
      [&line, job, path] { return Debug(line, *job, *path); });
  debug->add_option("job", *job, "Job")->required();
  debug->add_option("--to", *path, "Archive to write (default: anneal-debug-ID.tar here)");
}

}  // namespace anneal::cli
