#include "coordinator/api/artifact_service.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/random.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "common/rpc/status.h"
#include "common/storage/layout.h"
#include "coordinator/api/download_reactor.h"
#include "coordinator/api/pooled_call.h"
#include "coordinator/api/pumped_writer.h"

namespace anneal {
namespace {

constexpr absl::string_view kJobs = "jobs/";
constexpr absl::string_view kArtifacts = "/artifacts/";

// One file as the manifest has it.
struct ManifestEntry {
  std::string path;
  int64_t size_bytes = 0;
  std::string sha256;
};

absl::StatusOr<ManifestEntry> ParseEntry(const Json& json) {
  const auto field = [&](const char* name) -> const Json& {
    static const Json kNull = nullptr;
    const auto found = json.find(name);
    return found == json.end() ? kNull : *found;
  };
  if (!json.is_object() || !field("path").is_string() || !field("bytes").is_number_integer() ||
      !field("sha256").is_string()) {
    return absl::DataLossError(
        absl::StrCat("the manifest's entry ", DumpJson(json), " lacks path, bytes or sha256"));
  }
  ManifestEntry entry{field("path").get<std::string>(), field("bytes").get<int64_t>(),
                      field("sha256").get<std::string>()};
  if (!IsSafeRelativePath(entry.path) || entry.size_bytes < 0) {
    return absl::DataLossError(
        absl::StrCat("the manifest's entry ", DumpJson(json), " is no file of the job"));
  }
  return entry;
}

// The files a job has made, by path; none before it has published them.
absl::StatusOr<std::vector<ManifestEntry>> ReadManifest(const StorageRoot& root,
                                                        const internal::JobRecord& job) {
  const std::string& expected = job.job().result().manifest_sha256();
  if (expected.empty()) return std::vector<ManifestEntry>();
  const std::string path = root.Absolute(absl::StrCat(OutputPath(job.id()), "/manifest.json"));
  ANNEAL_ASSIGN_OR_RETURN(const std::string text,
                          ReadSmallFile(root.files(), path, kMaxOutputManifestBytes));
  if (Sha256Hex(text) != expected) {
    return absl::DataLossError(
        absl::StrCat(path, " is not the manifest that the job has published"));
  }
  ANNEAL_ASSIGN_OR_RETURN(const Json manifest, ParseJson(text));
  const auto files = manifest.find("files");
  if (files == manifest.end() || !files->is_array())
    return absl::DataLossError(absl::StrCat(path, " lists no files"));
  std::vector<ManifestEntry> entries;
  for (const Json& file : *files) {
    ANNEAL_ASSIGN_OR_RETURN(ManifestEntry entry, ParseEntry(file));
    entries.push_back(std::move(entry));
  }
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.path < b.path; });
  return entries;
}

absl::StatusOr<std::shared_ptr<const internal::JobRecord>> FindJob(const Catalog& catalog,
                                                                   const Caller& caller,
                                                                   absl::string_view id) {
  std::shared_ptr<const internal::JobRecord> job = catalog.FindJob(caller.project, id);
  if (job == nullptr)
    return WithReason(absl::NotFoundError(absl::StrCat("there is no job jobs/", id)),
                      "JOB_NOT_FOUND");
  return job;
}

struct ArtifactName {
  std::string job;
  std::string path;
};
// "jobs/{job}/artifacts/{path}"
absl::StatusOr<ArtifactName> ParseName(absl::string_view name) {
  absl::string_view rest = name;
  if (absl::ConsumePrefix(&rest, kJobs)) {
    const size_t slash = rest.find(kArtifacts);
    if (slash != absl::string_view::npos && IsUlid(rest.substr(0, slash))) {
      const absl::string_view path = rest.substr(slash + kArtifacts.size());
      if (IsSafeRelativePath(path))
        return ArtifactName{std::string(rest.substr(0, slash)), std::string(path)};
    }
  }
  return InvalidField("name", "is not jobs/{job}/artifacts/{path}");
}

absl::StatusOr<DownloadSource> OpenArtifact(const StorageRoot& root, const Catalog& catalog,
                                            const Caller& caller, absl::string_view name) {
  ANNEAL_ASSIGN_OR_RETURN(const ArtifactName artifact, ParseName(name));
  ANNEAL_ASSIGN_OR_RETURN(const auto job, FindJob(catalog, caller, artifact.job));
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<ManifestEntry> entries, ReadManifest(root, *job));
  const auto entry = std::find_if(entries.begin(), entries.end(),
                                  [&](const auto& e) { return e.path == artifact.path; });
  if (entry == entries.end()) {
    return WithReason(absl::NotFoundError(
                          absl::StrCat("jobs/", artifact.job, " has no artifact ", artifact.path)),
                      "ARTIFACT_NOT_FOUND");
  }
  const std::string path = root.Absolute(absl::StrCat(OutputPath(artifact.job), "/", entry->path));
  ANNEAL_ASSIGN_OR_RETURN(const FileInfo info, root.files().Stat(path));
  if (info.kind != FileInfo::Kind::kFile || info.size_bytes != entry->size_bytes) {
    return absl::DataLossError(
        absl::StrCat(path, " is no longer the file that the job has published"));
  }
  ANNEAL_ASSIGN_OR_RETURN(std::unique_ptr<ReadableFile> file, root.files().OpenForRead(path));
  return DownloadSource{std::move(file), entry->size_bytes, {}};
}

}  // namespace

grpc::ServerUnaryReactor* ArtifactServiceImpl::ListArtifacts(
    grpc::CallbackServerContext* context, const v1::ListArtifactsRequest* request,
    v1::ListArtifactsResponse* response) {
  return AnswerOnPool(
      parts_.pool, parts_.authenticator, Right::kRead, *context,
      [=, this](const Caller& caller) -> absl::Status {
        absl::string_view id = request->parent();
        if (!absl::ConsumePrefix(&id, kJobs) || !IsUlid(id))
          return InvalidField("parent", "is not jobs/{job}");
        ANNEAL_ASSIGN_OR_RETURN(const auto job, FindJob(parts_.catalog, caller, id));
        ANNEAL_ASSIGN_OR_RETURN(const std::vector<ManifestEntry> entries,
                                ReadManifest(parts_.root, *job));
        for (const ManifestEntry& entry : entries) {
          v1::Artifact* artifact = response->add_artifacts();
          artifact->set_name(absl::StrCat(request->parent(), kArtifacts, entry.path));
          artifact->set_path(entry.path);
          artifact->set_size_bytes(entry.size_bytes);
          artifact->set_sha256(entry.sha256);
        }
        if (!entries.empty())
          response->set_folder_uri(absl::StrCat("file://", parts_.root.Absolute(OutputPath(id))));
        return absl::OkStatus();
      });
}

grpc::ServerWriteReactor<v1::DownloadArtifactResponse>* ArtifactServiceImpl::DownloadArtifact(
    grpc::CallbackServerContext* context, const v1::DownloadArtifactRequest* request) {
  const absl::StatusOr<Caller> caller = parts_.authenticator.CallerOf(*context, Right::kRead);
  if (!caller.ok()) return new RefusedWriter<v1::DownloadArtifactResponse>(caller.status());
  return DownloadReactor<v1::DownloadArtifactResponse>::Start(
      parts_.pool, *context, caller->project, request->offset(),
      [this, caller, name = request->name()]() -> absl::StatusOr<DownloadSource> {
        ANNEAL_ASSIGN_OR_RETURN(ProjectLimits::Stream place,
                                parts_.limits.OpenStream(caller->project));
        ANNEAL_ASSIGN_OR_RETURN(DownloadSource source,
                                OpenArtifact(parts_.root, parts_.catalog, *caller, name));
        source.place = std::move(place);
        source.may_go_on = [this, caller] { return parts_.authenticator.Recheck(*caller); };
        return source;
      });
}

}  // namespace anneal
