// anneal models, files, workers.

#include <unistd.h>

#include <iostream>
#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/base/status.h"
#include "tools/anneal/command_line.h"
#include "tools/anneal/follow.h"
#include "tools/anneal/history.h"
#include "tools/anneal/job_inputs.h"
#include "tools/anneal/text.h"
#include "tools/anneal/upload.h"

namespace anneal::cli {
namespace {

struct ImportOptions {
  std::string folder;
  std::string id;
  std::string source_id;
};

absl::StatusOr<ExitCode> ListModels(CommandLine& line) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  v1::ListModelsRequest request;
  request.set_page_size(1000);
  ANNEAL_ASSIGN_OR_RETURN(const v1::ListModelsResponse response,
                          client->Call(&v1::ModelService::StubInterface::ListModels, request));
  if (line.json()) {
    line.PrintJson(response);
    return kOk;
  }
  Table table({"MODEL", "FAMILY", "PARAMETERS", "SIZE", "POSITIONS", "CHAT", "SOURCE"});
  for (const v1::Model& model : response.models()) {
    table.AddRow({model.name(), model.family(),
                  FormatCount(static_cast<double>(model.parameters())),
                  FormatBytes(model.size_bytes()), absl::StrCat(model.max_positions()),
                  model.has_chat_template() ? "yes" : "no", model.source_id()});
  }
  std::cout << table.Format();
  return kOk;
}

absl::StatusOr<ExitCode> ImportModel(CommandLine& line, const ImportOptions& options) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  absl::StatusOr<v1::Model> model;
  if (absl::StartsWith(options.folder, "file:")) {  // a folder of the coordinator's machine
    v1::ImportModelRequest request;
    request.set_source_uri(options.folder);
    request.set_model_id(options.id);
    request.set_source_id(options.source_id);
    request.set_request_id(RandomHex(16, Random::Real()));
    model = client->Call(&v1::ModelService::StubInterface::ImportModel, request, kImportTimeout);
  } else {
    model =
        ImportLocalModel(*client, options.folder, options.id, options.source_id, Random::Real());
  }
  ANNEAL_RETURN_IF_ERROR(model.status());
  if (line.json()) {
    line.PrintJson(*model);
  } else {
    std::cout << "imported as " << model->name() << " (" << model->family() << ", "
              << FormatCount(static_cast<double>(model->parameters())) << " parameters)\n";
  }
  return kOk;
}

absl::StatusOr<ExitCode> ListFiles(CommandLine& line) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  v1::ListFilesRequest request;
  request.set_page_size(1000);
  ANNEAL_ASSIGN_OR_RETURN(const v1::ListFilesResponse response,
                          client->Call(&v1::FileService::StubInterface::ListFiles, request));
  if (line.json()) {
    line.PrintJson(response);
    return kOk;
  }
  Table table({"FILE", "NAME", "SIZE", "UPLOADED"});
  const absl::Time now = Clock::Real().TimeNow();
  for (const v1::File& file : response.files()) {
    table.AddRow({file.name(), file.display_name(), FormatBytes(file.size_bytes()),
                  FormatAgo(file.has_create_time(), file.create_time(), now)});
  }
  std::cout << table.Format();
  return kOk;
}

absl::StatusOr<ExitCode> UploadFiles(CommandLine& line, const std::vector<std::string>& paths) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  for (const std::string& path : paths) {
    ANNEAL_ASSIGN_OR_RETURN(const v1::File file,
                            UploadOnce(*client, path, std::cerr, TerminalWidth(STDERR_FILENO),
                                       Clock::Real(), Random::Real()));
    if (line.json()) {
      line.PrintJson(file);
    } else {
      std::cout << file.name() << "  " << Printable(file.display_name()) << "  "
                << FormatBytes(file.size_bytes()) << "\n";
    }
  }
  return kOk;
}

std::string WorkerStateName(v1::Worker::State state) {
  return std::string(absl::StripPrefix(v1::Worker::State_Name(state), "STATE_"));
}

absl::StatusOr<ExitCode> ListWorkers(CommandLine& line) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  ANNEAL_ASSIGN_OR_RETURN(const v1::ListWorkersResponse response, ReadWorkers(*client));
  if (line.json()) {
    line.PrintJson(response);
    return kOk;
  }
  Table table({"WORKER", "STATE", "SLOTS", "FREE", "DEVICE", "ADDRESS", "SEEN"});
  const absl::Time now = Clock::Real().TimeNow();
  for (const v1::Worker& worker : response.workers()) {
    int free = 0;
    for (const v1::Slot& slot : worker.slots()) free += slot.job().empty() ? 1 : 0;
    table.AddRow({std::string(IdOf(worker.name())), WorkerStateName(worker.state()),
                  absl::StrCat(worker.slots_size()), absl::StrCat(free),
                  worker.slots().empty() ? "-" : worker.slots(0).device_name(),
                  worker.data_address(),
                  FormatAgo(worker.has_last_sync_time(), worker.last_sync_time(), now)});
  }
  std::cout << table.Format();
  return kOk;
}

absl::StatusOr<ExitCode> ShowStorage(CommandLine& line) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  ANNEAL_ASSIGN_OR_RETURN(
      const v1::Storage storage,
      client->Call(&v1::ClusterService::StubInterface::GetStorage, v1::GetStorageRequest()));
  if (line.json()) {
    line.PrintJson(storage);
    return kOk;
  }
  Table table({"KIND", "SIZE", "FILES"});
  for (const v1::Storage::Kind& kind : storage.kinds())
    table.AddRow({kind.name(), FormatBytes(kind.size_bytes()), absl::StrCat(kind.files())});
  std::cout << table.Format() << FormatBytes(storage.free_bytes()) << " free\n";
  return kOk;
}

template <typename Request>
absl::StatusOr<ExitCode> ActOnWorker(CommandLine& line, const std::string& worker,
                                     grpc::Status (v1::ClusterService::StubInterface::*method)(
                                         grpc::ClientContext*, const Request&, v1::Worker*)) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  Request request;
  request.set_name(absl::StrCat("workers/", absl::StripPrefix(worker, "workers/")));
  ANNEAL_ASSIGN_OR_RETURN(const v1::Worker now, client->Call(method, request));
  if (line.json()) {
    line.PrintJson(now);
  } else {
    std::cout << "worker " << IdOf(now.name()) << " is " << WorkerStateName(now.state()) << "\n";
  }
  return kOk;
}

}  // namespace

void AddResourceCommands(CommandLine& line) {
  CLI::App* models =
      line.AddCommand(nullptr, "models", "List base models", [&line] { return ListModels(line); });
  auto import = std::make_shared<ImportOptions>();
  CLI::App* import_command =
      line.AddCommand(models, "import", "Import a Hugging Face folder",
                      [&line, import] { return ImportModel(line, *import); });
  import_command
      ->add_option("folder", import->folder,
                   "Folder, or file:///folder of the coordinator's machine")
      ->required();
  import_command->add_option("--id", import->id, "Id in models/ID (default: the folder's name)");
  import_command->add_option(
      "--source-id", import->source_id,
      "Where the model comes from (HuggingFaceTB/SmolLM2-135M-Instruct), for the adapter's config");

  CLI::App* files = line.AddCommand(nullptr, "files", "List uploaded data files",
                                    [&line] { return ListFiles(line); });
  auto paths = std::make_shared<std::vector<std::string>>();
  line.AddCommand(files, "upload", "Upload data files; one that is there already is not sent again",
                  [&line, paths] { return UploadFiles(line, *paths); })
      ->add_option("files", *paths, "Files")
      ->required();

  line.AddCommand(nullptr, "storage", "Show what the storage root holds",
                  [&line] { return ShowStorage(line); });

  CLI::App* workers =
      line.AddCommand(nullptr, "workers", "List workers", [&line] { return ListWorkers(line); });
  auto worker = std::make_shared<std::string>();
  line.AddCommand(workers, "drain", "Give a worker no new work",
                  [&line, worker] {
                    return ActOnWorker(line, *worker,
                                       &v1::ClusterService::StubInterface::DrainWorker);
                  })
      ->add_option("worker", *worker, "Worker")
      ->required();
  line.AddCommand(workers, "undrain", "Give a worker work again",
                  [&line, worker] {
                    return ActOnWorker(line, *worker,
                                       &v1::ClusterService::StubInterface::UndrainWorker);
                  })
      ->add_option("worker", *worker, "Worker")
      ->required();
}

}  // namespace anneal::cli
