#include "tools/anneal/job_inputs.h"

#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/spec/references.h"
#include "tools/anneal/text.h"
#include "tools/anneal/upload.h"

namespace anneal::cli {
namespace {

namespace fs = std::filesystem;

fs::path Resolve(const std::string& base_folder, const std::string& path) {
  std::error_code ignored;
  return fs::absolute(fs::path(base_folder) / path, ignored).lexically_normal();
}

std::string FileUri(const fs::path& path) {
  std::string text = path.string();
  if (text.size() > 1 && text.back() == '/') text.pop_back();
  return "file://" + text;
}

absl::Status SendFile(Client& client, const InputOptions& options, Clock& clock, Random& random,
                      std::string* reference) {
  if (spec::IsFileName(*reference) || absl::StartsWith(*reference, "file:"))
    return absl::OkStatus();
  const fs::path path = Resolve(options.base_folder, *reference);
  if (!fs::is_regular_file(path))
    return absl::NotFoundError(absl::StrCat("data file ", path.string(), " does not exist"));
  if (options.dry_run && client.context().shares_disk) {
    *reference = FileUri(path);
    return absl::OkStatus();
  }
  ANNEAL_ASSIGN_OR_RETURN(const v1::File file, UploadOnce(client, path.string(), options.progress,
                                                          options.terminal_width, clock, random));
  options.progress << *reference << " is " << file.name() << " (" << FormatBytes(file.size_bytes())
                   << ")\n";
  *reference = file.name();
  return absl::OkStatus();
}

absl::Status SendModel(Client& client, const InputOptions& options, Random& random,
                       std::string* reference) {
  if (reference->empty() || spec::IsJobModelName(*reference) ||
      absl::StartsWith(*reference, "file:")) {
    return absl::OkStatus();
  }
  const fs::path folder = Resolve(options.base_folder, *reference);
  const bool is_folder = fs::exists(folder / "config.json");
  if (!is_folder && spec::IsModelName(*reference)) return absl::OkStatus();
  if (!is_folder) {
    return absl::NotFoundError(
        absl::StrCat("model '", *reference,
                     "' is neither a model of the service (models/...; see `anneal models`) "
                     "nor a folder with a config.json: ",
                     folder.string()));
  }
  if (options.dry_run && client.context().shares_disk) {
    *reference = FileUri(folder);
    return absl::OkStatus();
  }
  options.progress << "importing the model in " << folder.string() << "\n";
  ANNEAL_ASSIGN_OR_RETURN(const v1::Model model,
                          ImportLocalModel(client, folder.string(), "", "", random));
  *reference = model.name();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::Model> ImportLocalModel(Client& client, const std::string& folder,
                                           const std::string& model_id,
                                           const std::string& source_id, Random& random) {
  if (!client.context().shares_disk) {
    return absl::FailedPreconditionError(
        absl::StrCat("the coordinator at ", client.context().server,
                     " may not see this machine's folder ", folder,
                     "; put the model where the coordinator can read it, below one of its "
                     "--allowed-root folders, and import "
                     "file:///that/folder"));
  }
  v1::ImportModelRequest request;
  request.set_source_uri(FileUri(Resolve("", folder)));
  request.set_model_id(model_id);
  request.set_source_id(source_id);
  request.set_request_id(RandomHex(16, random));
  return client.Call(&v1::ModelService::StubInterface::ImportModel, request, kImportTimeout);
}

absl::Status SendLocalInputs(Client& client, const InputOptions& options, Clock& clock,
                             Random& random, v1::JobSpec* spec) {
  ANNEAL_RETURN_IF_ERROR(SendModel(client, options, random, spec->mutable_model()));
  for (std::string& file : *spec->mutable_data()->mutable_train()) {
    ANNEAL_RETURN_IF_ERROR(SendFile(client, options, clock, random, &file));
  }
  if (!spec->data().has_validation()) return absl::OkStatus();
  for (std::string& file : *spec->mutable_data()->mutable_validation()->mutable_files()) {
    ANNEAL_RETURN_IF_ERROR(SendFile(client, options, clock, random, &file));
  }
  return absl::OkStatus();
}

}  // namespace anneal::cli
