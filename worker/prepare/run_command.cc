#include <cstdio>
#include <functional>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/protocol/child_channel.h"
#include "common/protocol/messages.h"
#include "common/protocol/run_folder_layout.h"
#include "common/storage/open_beneath.h"
#include "worker/prepare/commands.h"
#include "worker/prepare/preparation.h"

namespace anneal::prepare {
namespace {

constexpr absl::Duration kStartTimeout = absl::Minutes(10);

struct Options {
  std::string socket;
  std::string run_dir;
  std::string task_file;
  std::string storage_root;
};

// The task with paths that can be opened.
protocol::PrepareTask Resolve(protocol::PrepareTask task, const std::string& storage_root) {
  for (std::string* path : {&task.model_dir, &task.output_dir, &task.cache_dir}) {
    *path = protocol::ResolvePath(storage_root, *path);
  }
  for (auto* files : {&task.train_files, &task.validation_files}) {
    for (protocol::InputFile& file : *files) {
      const bool below_storage = !absl::StartsWith(file.path, "/");
      file.path = protocol::ResolvePath(storage_root, file.path);
      if (below_storage) file.path = PlainPath(file.path);  // where links are the operator's
    }
  }
  return task;
}

// Prepares; paths in the report begin as the task's output_dir does, so that another node can
// resolve them in its own way.
absl::StatusOr<protocol::PreparedReport> RunTask(const Json& json, const std::string& storage_root,
                                                 const PrepareHooks& hooks) {
  ANNEAL_ASSIGN_OR_RETURN(const protocol::PrepareTask task, protocol::PrepareTaskFromJson(json));
  if (task.output_dir.empty()) return absl::InvalidArgumentError("output_dir is missing");
  absl::StatusOr<protocol::PreparedReport> report;
  ANNEAL_RETURN_IF_ERROR(CatchAll("prepare", [&]() -> absl::Status {
    ANNEAL_ASSIGN_OR_RETURN(Prepared prepared, Prepare(Resolve(task, storage_root), hooks));
    report = std::move(prepared.report);
    return absl::OkStatus();
  }));
  const std::string resolved = report->output_dir;
  for (std::string* path :
       {&report->output_dir, &report->train_data, &report->validation_data, &report->data_report}) {
    if (!path->empty()) *path = absl::StrCat(task.output_dir, path->substr(resolved.size()));
  }
  return report;
}

protocol::ExitRecord RecordOf(const absl::StatusOr<protocol::PreparedReport>& report) {
  if (!report.ok()) {
    const absl::Status& status = report.status();
    std::string reason = ReasonOf(status);
    if (reason.empty()) reason = absl::IsCancelled(status) ? "STOPPED" : "PREPARE_FAILED";
    return {.status_code = static_cast<int>(status.code()),
            .reason = reason,
            .message = std::string(status.message())};
  }
  if (report->error_count == 0) return {};
  return {.status_code = static_cast<int>(absl::StatusCode::kInvalidArgument),
          .reason = "BAD_DATA",
          .message = absl::StrCat(report->error_count, " errors in the data")};
}

int ExitCodeOf(const absl::StatusOr<protocol::PreparedReport>& report) {
  if (!report.ok()) return kExitFailed;
  return report->error_count == 0 ? kExitOk : kExitBadInput;
}

void WriteLastWords(const std::string& run_dir, const protocol::ExitRecord& record) {
  const absl::Status status = protocol::WriteExitRecord(run_dir, record);
  if (!status.ok()) {
    ANNEAL_LOG(ERROR) << "cannot write the exit record" << Field("why", status.ToString());
  }
}

int RunForWorker(const Options& options) {
  const std::string run_dir = options.run_dir.empty()
                                  ? options.socket.substr(0, options.socket.rfind('/'))
                                  : options.run_dir;
  SetLogContext("prepare", protocol::TaskFieldsOf(run_dir));
  absl::StatusOr<std::unique_ptr<protocol::ChildChannel>> channel =
      protocol::ChildChannel::Listen(options.socket);
  const auto run = [&]() -> absl::StatusOr<protocol::PreparedReport> {
    if (!channel.ok()) return channel.status();
    protocol::ChildChannel& worker = **channel;
    ANNEAL_ASSIGN_OR_RETURN(const protocol::Start start, worker.WaitForStart(kStartTimeout));
    ANNEAL_LOG(INFO) << "preparing";
    const PrepareHooks hooks = {
        .on_phase = [&](const std::string& phase) { worker.SetPhase(phase); },
        .stop_requested = [&] { return worker.stop_requested() != protocol::StopMode::kNone; }};
    ANNEAL_ASSIGN_OR_RETURN(protocol::PreparedReport report,
                            RunTask(start.task, start.storage_root, hooks));
    ANNEAL_RETURN_IF_ERROR(worker.SendReport({.prepared = report}));
    return report;
  };
  const absl::StatusOr<protocol::PreparedReport> report = run();
  if (report.ok()) {
    ANNEAL_LOG(INFO) << "prepared" << Field("train_rows", report->train_rows)
                     << Field("validation_rows", report->validation_rows)
                     << Field("errors", report->error_count)
                     << Field("warnings", report->warning_count)
                     << Field("from_cache", report->from_cache ? "true" : "false");
  } else {
    ANNEAL_LOG(ERROR) << "preparation failed" << Field("why", report.status().ToString());
  }
  WriteLastWords(run_dir, RecordOf(report));
  return ExitCodeOf(report);
}

int RunAlone(const Options& options) {
  const auto run = [&]() -> absl::StatusOr<protocol::PreparedReport> {
    ANNEAL_ASSIGN_OR_RETURN(const Json json, ReadJsonFile(options.task_file));
    return RunTask(json, options.storage_root, {});
  };
  const absl::StatusOr<protocol::PreparedReport> report = run();
  if (report.ok()) {
    std::printf("%s\n", DumpJson(protocol::ToJson(*report)).c_str());
  } else {
    std::fprintf(stderr, "anneal-prepare: %s\n", report.status().ToString().c_str());
  }
  if (!options.run_dir.empty()) WriteLastWords(options.run_dir, RecordOf(report));
  return ExitCodeOf(report);
}

}  // namespace

int RunCommand(int argc, char** argv) {
  Options options;
  CLI::App app("Prepare the data of one job.", "anneal-prepare run");
  CLI::Option* socket =
      app.add_option("--socket", options.socket, "listen here for a worker's orders");
  CLI::Option* task =
      app.add_option("--task", options.task_file, "without a worker: the task (JSON, PrepareTask)");
  app.add_option("--run-dir", options.run_dir, "gets exit.json; default: the folder of the socket");
  app.add_option("--storage-root", options.storage_root,
                 "what relative paths in the task start from")
      ->needs(task);
  socket->excludes(task);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitBadInput;
  }
  if (options.socket.empty() && options.task_file.empty()) {
    std::fprintf(stderr, "anneal-prepare run: --socket or --task is needed\n");
    return kExitBadInput;
  }
  return options.task_file.empty() ? RunForWorker(options) : RunAlone(options);
}

}  // namespace anneal::prepare
