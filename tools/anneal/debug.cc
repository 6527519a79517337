// anneal debug: everything about a job that helps whoever is asked for help, in one archive.

#include <algorithm>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/base/thread_stacks.h"
#include "common/base/version.h"
#include "common/format/json.h"
#include "common/spec/message_json.h"
#include "tools/anneal/command_line.h"
#include "tools/anneal/history.h"
#include "tools/anneal/job_name.h"
#include "tools/anneal/redact.h"
#include "tools/anneal/tar_writer.h"
#include "tools/anneal/text.h"

namespace anneal::cli {
namespace {

using Jobs = v1::FineTuningService::StubInterface;

// Of each log the end is kept; of a job that has failed often, the last attempts.
constexpr size_t kMaxLogBytes = 4 << 20;
constexpr int64_t kMaxGenerations = 10;
// How long ranks may take to write where they stand. One that is stopped never does.
constexpr absl::Duration kStacksPatience = absl::Seconds(5);
constexpr absl::Duration kLookAgain = absl::Milliseconds(200);

// The most ranks that a generation of the job has had.
int MostRanks(const v1::Job& job) {
  const v1::ResourceSpec& resources = job.resolved().spec().resources();
  return std::max({1, resources.slots(), resources.max_slots()});
}

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
    ANNEAL_ASSIGN_OR_RETURN(v1::Job job, client_.Call(&Jobs::GetJob, request));
    LeaveDataOut(job);
    ANNEAL_RETURN_IF_ERROR(Add("job.json", ToText(job)));
    AwaitStacks(job);
    absl::StatusOr<std::vector<v1::JobEvent>> events = ReadEvents(client_, job_);
    if (events.ok()) {
      for (v1::JobEvent& event : *events) LeaveDataOut(event);
    }
    ANNEAL_RETURN_IF_ERROR(AddLines("events.jsonl", events));
    ANNEAL_RETURN_IF_ERROR(AddLines("steps.jsonl", ReadSteps(client_, job_)));
    v1::ListCheckpointsRequest checkpoints;
    checkpoints.set_name(job_);
    ANNEAL_RETURN_IF_ERROR(
        AddAnswer("checkpoints.json", client_.Call(&Jobs::ListCheckpoints, checkpoints)));
    ANNEAL_RETURN_IF_ERROR(AddAnswer("workers.json", ReadWorkers(client_)));
    ANNEAL_ASSIGN_OR_RETURN(const bool prepared, AddLog("prepare.log", 0, -1, 0));
    if (!prepared) Miss("logs/prepare.log", absl::NotFoundError("it is not there"));
    const int64_t newest = job.generation();
    for (int64_t g = std::max<int64_t>(1, newest - kMaxGenerations + 1); g <= newest; ++g)
      ANNEAL_RETURN_IF_ERROR(AddLogs(g, MostRanks(job), g == newest));
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
    if (IsTerminal(job.state()) || job.generation() == 0) return;
    // Where each log ends now, so that only what comes is looked through.
    ends_.resize(MostRanks(job));
    for (size_t rank = 0; rank < ends_.size(); ++rank) ReadOn(job.generation(), rank);
    v1::JobActionRequest request;
    request.set_name(job_);
    const absl::Status asked = client_.Call(&Jobs::RequestStacks, request).status();
    if (absl::IsFailedPrecondition(asked)) return;  // it has no ranks now
    if (!asked.ok()) return Miss("where the ranks stand", asked);
    Clock& clock = Clock::Real();
    const absl::Duration until = clock.MonotonicNow() + kStacksPatience;
    for (size_t rank = 0; rank < ends_.size(); ++rank) {
      LogEnd& end = ends_[rank];
      if (!end.there) continue;  // said where its log would be
      end.said = false;
      while (!end.said && clock.MonotonicNow() < until) {
        ReadOn(job.generation(), rank);
        if (!end.said) clock.Sleep(kLookAgain);
      }
      if (end.said) continue;
      Miss(absl::StrCat("where rank ", rank, " stands"),
           absl::DeadlineExceededError("it has not said so in time"));
    }
  }
  // How far the log of a rank of the newest generation has been read.
  struct LogEnd {
    bool there = false;
    int64_t offset = 0;
    std::string last;   // the line that is not whole yet
    bool said = false;  // a line that ends stacks has come
  };
  void ReadOn(int64_t generation, size_t rank) {
    LogEnd& end = ends_[rank];
    const absl::Status status =
        ReadLog(generation, static_cast<int>(rank), end.offset, [&end](const std::string& data) {
          end.offset += static_cast<int64_t>(data.size());
          const std::string text = end.last + data;
          const std::vector<absl::string_view> lines = absl::StrSplit(text, '\n');
          for (size_t i = 0; i + 1 < lines.size(); ++i)
            end.said = end.said || lines[i] == kEndOfThreadStacks;
          end.last = std::string(lines.back().substr(0, sizeof kEndOfThreadStacks));
        });
    end.there = end.there || status.ok();
  }
  // All logs of one generation, with a line about those that are not there.
  absl::Status AddLogs(int64_t generation, int ranks, bool newest) {
    std::vector<int> lacking, lacking_at_end;
    for (int rank = 0; rank < ranks; ++rank) {
      const int64_t end = newest && rank < static_cast<int>(ends_.size()) ? ends_[rank].offset : 0;
      ANNEAL_ASSIGN_OR_RETURN(
          const bool found,
          AddLog(absl::StrCat("g", generation, "/rank", rank, ".log"), generation, rank, end));
      if (!found) {
        lacking_at_end.push_back(rank);
        continue;
      }
      lacking.insert(lacking.end(), lacking_at_end.begin(), lacking_at_end.end());
      lacking_at_end.clear();
    }
    lacking.insert(lacking.end(), lacking_at_end.begin(), lacking_at_end.end());
    if (lacking.empty()) return absl::OkStatus();
    Miss(absl::StrCat("logs/g", generation),
         absl::NotFoundError(
             absl::StrCat("no log of rank ", absl::StrJoin(lacking, ", "), " (of ", ranks,
                          " at most): it has not started, or its log was deleted")));
    return absl::OkStatus();
  }
  // Whether there is such a log. `end`: where it ends at least, 0 if that is not known.
  absl::StatusOr<bool> AddLog(const std::string& name, int64_t generation, int rank, int64_t end) {
    std::string log;
    const absl::Status status =
        ReadLog(generation, rank, std::max<int64_t>(0, end - static_cast<int64_t>(kMaxLogBytes)),
                [&log](const std::string& data) {
                  log += data;
                  if (log.size() > 2 * kMaxLogBytes) log.erase(0, log.size() - kMaxLogBytes);
                });
    if (absl::IsNotFound(status)) return false;
    if (!status.ok()) Miss(absl::StrCat("logs/", name), status);
    if (log.size() > kMaxLogBytes) log.erase(0, log.size() - kMaxLogBytes);
    ANNEAL_RETURN_IF_ERROR(Add(absl::StrCat("logs/", name), log));
    return true;
  }
  // The log from `offset` on, or as much of it as came.
  absl::Status ReadLog(int64_t generation, int rank, int64_t offset,
                       const std::function<void(const std::string&)>& take) {
    v1::ReadJobLogRequest request;
    request.set_name(job_);
    request.set_generation(generation);
    request.set_rank(rank);
    request.set_offset(offset);
    grpc::ClientContext context;
    client_.Prepare(context, absl::Minutes(2));
    const auto stream = client_.jobs().ReadJobLog(&context, request);
    for (v1::LogChunk chunk; stream->Read(&chunk);) take(chunk.data());
    return client_.ToStatus(stream->Finish());
  }

  Client& client_;
  const std::string job_;
  TarWriter& tar_;
  const absl::Time now_;
  std::vector<LogEnd> ends_;  // of the newest generation, by rank
  std::string missing_;
};

absl::StatusOr<ExitCode> Debug(CommandLine& line, const std::string& text, std::string path) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  ANNEAL_ASSIGN_OR_RETURN(const std::string job, ResolveJobName(*client, text));
  if (path.empty()) path = absl::StrCat("anneal-debug-", IdOf(job), ".tar");
  ANNEAL_ASSIGN_OR_RETURN(TarWriter tar, TarWriter::Create(path));
  ANNEAL_RETURN_IF_ERROR(Collection(*client, job, tar).CollectAll());
  std::cout << path << "\n";
  std::cerr << "it holds settings, events, numbers and logs of the job, no rows of its data, no "
               "weights and no keys; look into it before you hand it on\n";
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
