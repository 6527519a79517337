// anneal artifacts, download.

#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/rpc/retry.h"
#include "tools/anneal/command_line.h"
#include "tools/anneal/job_name.h"
#include "tools/anneal/text.h"

namespace anneal::cli {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<v1::ListArtifactsResponse> List(Client& client, const std::string& text) {
  v1::ListArtifactsRequest request;
  ANNEAL_ASSIGN_OR_RETURN(*request.mutable_parent(), ResolveJobName(client, text));
  return client.Call(&v1::ArtifactService::StubInterface::ListArtifacts, request);
}

absl::StatusOr<ExitCode> ListArtifacts(CommandLine& line, const std::string& job) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  ANNEAL_ASSIGN_OR_RETURN(const v1::ListArtifactsResponse response, List(*client, job));
  if (line.json()) {
    line.PrintJson(response);
    return kOk;
  }
  Table table({"PATH", "SIZE", "SHA256"});
  for (const v1::Artifact& artifact : response.artifacts()) {
    table.AddRow({artifact.path(), FormatBytes(artifact.size_bytes()), artifact.sha256()});
  }
  std::cout << table.Format();
  return kOk;
}

// A path that cannot leave the folder it is put below: the server is not trusted to name one.
bool IsSafeRelativePath(const std::string& path) {
  if (path.empty() || path.find('\0') != std::string::npos) return false;
  for (absl::string_view part : absl::StrSplit(path, '/')) {
    if (part.empty() || part == "." || part == "..") return false;
  }
  return true;
}

// Appends to `part_file` what it still lacks.
absl::Status Fetch(Client& client, const v1::Artifact& artifact, const fs::path& part_file) {
  std::error_code ignored;
  auto have =
      fs::exists(part_file, ignored) ? static_cast<int64_t>(fs::file_size(part_file, ignored)) : 0;
  if (have > artifact.size_bytes()) have = 0;
  std::ofstream out(
      part_file, have > 0 ? std::ios::binary | std::ios::app : std::ios::binary | std::ios::trunc);
  v1::DownloadArtifactRequest request;
  request.set_name(artifact.name());
  request.set_offset(have);
  grpc::ClientContext context;
  client.Prepare(context);
  const auto stream = client.artifacts().DownloadArtifact(&context, request);
  v1::DownloadArtifactResponse chunk;
  bool in_order = true;
  while (in_order && stream->Read(&chunk)) {
    in_order = chunk.offset() == have &&
               out.write(chunk.data().data(), static_cast<std::streamsize>(chunk.data().size()));
    have += static_cast<int64_t>(chunk.data().size());
  }
  if (!in_order) context.TryCancel();
  const absl::Status status = client.ToStatus(stream->Finish());
  out.close();
  if (!in_order || !out)
    return absl::FailedPreconditionError(absl::StrCat("cannot write ", part_file.string()));
  return status;
}

absl::Status Download(Client& client, const v1::Artifact& artifact, const fs::path& folder) {
  if (!IsSafeRelativePath(artifact.path())) {
    return absl::DataLossError(
        absl::StrCat("the service names an artifact '", artifact.path(), "', which is no path"));
  }
  const fs::path target = folder / artifact.path();
  std::error_code error;
  fs::create_directories(target.parent_path(), error);
  if (error)
    return absl::FailedPreconditionError(
        absl::StrCat(target.parent_path().string(), ": ", error.message()));
  if (fs::exists(target, error)) {
    const absl::StatusOr<std::string> present = Sha256OfFile(target.string());
    if (present.ok() && *present == artifact.sha256()) return absl::OkStatus();
  }
  const fs::path part_file = target.string() + ".part";
  ANNEAL_RETURN_IF_ERROR(
      RetryCall({}, absl::Minutes(2), Clock::Real(), Random::Real(),
                [&]() -> absl::Status { return Fetch(client, artifact, part_file); }));
  ANNEAL_ASSIGN_OR_RETURN(const std::string sha256, Sha256OfFile(part_file.string()));
  if (sha256 != artifact.sha256()) {
    fs::remove(part_file, error);
    return absl::DataLossError(absl::StrCat(artifact.path(), " arrived damaged: SHA-256 ", sha256,
                                            " instead of ", artifact.sha256()));
  }
  fs::rename(part_file, target, error);
  if (error)
    return absl::FailedPreconditionError(absl::StrCat(target.string(), ": ", error.message()));
  return absl::OkStatus();
}

absl::StatusOr<ExitCode> DownloadAll(CommandLine& line, const std::string& job,
                                     const std::string& folder) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  ANNEAL_ASSIGN_OR_RETURN(const v1::ListArtifactsResponse response, List(*client, job));
  int64_t bytes = 0;
  for (const v1::Artifact& artifact : response.artifacts()) {
    ANNEAL_RETURN_IF_ERROR(Download(*client, artifact, folder));
    bytes += artifact.size_bytes();
    if (!line.json()) std::cout << (fs::path(folder) / artifact.path()).string() << "\n";
  }
  if (line.json()) {
    line.PrintJson(response);
  } else {
    std::cout << response.artifacts_size() << " files, " << FormatBytes(bytes) << "\n";
  }
  return kOk;
}

}  // namespace

void AddArtifactCommands(CommandLine& line) {
  auto job = std::make_shared<std::string>();
  auto folder = std::make_shared<std::string>();
  line.AddCommand(nullptr, "artifacts", "List what a job made",
                  [&line, job] { return ListArtifacts(line, *job); })
      ->add_option("job", *job, "Job")
      ->required();
  CLI::App* download =
      line.AddCommand(nullptr, "download", "Download what a job made, checked by hash",
                      [&line, job, folder] { return DownloadAll(line, *job, *folder); });
  download->add_option("job", *job, "Job")->required();
  download
      ->add_option("--to", *folder,
                   "Folder, made if need be; files already there with the right hash are kept")
      ->required();
}

}  // namespace anneal::cli
