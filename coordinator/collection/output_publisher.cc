#include "coordinator/collection/output_publisher.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/log.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "common/storage/file_system.h"
#include "common/storage/layout.h"

namespace anneal {
namespace {

// Of all files that the manifest lists, and its own. It was written by a worker.
absl::StatusOr<int64_t> BytesOf(const std::string& manifest) {
  ANNEAL_ASSIGN_OR_RETURN(const Json json, ParseJson(manifest));
  if (!json.is_object() || !json.contains("files") || !json["files"].is_array())
    return absl::InvalidArgumentError("it lists no files");
  constexpr int64_t kMostBytes = int64_t{1} << 60;
  auto bytes = static_cast<int64_t>(manifest.size());
  for (const Json& file : json["files"]) {
    const bool has_size =
        file.is_object() && file.contains("bytes") && file["bytes"].is_number_integer();
    const int64_t size = has_size ? file["bytes"].get<int64_t>() : -1;
    if (size < 0 || size > kMostBytes - bytes)
      return absl::InvalidArgumentError(absl::StrCat(DumpJson(file), " has no size"));
    bytes += size;
  }
  return bytes;
}

// The bytes of the outputs in `folder`; NOT_FOUND if there are none.
absl::StatusOr<int64_t> CheckManifest(const StorageRoot& root, const std::string& folder,
                                      const std::string& sha256) {
  const std::string path = root.Absolute(absl::StrCat(folder, "/manifest.json"));
  ANNEAL_ASSIGN_OR_RETURN(const std::string text,
                          ReadSmallFile(root.files(), path, kMaxOutputManifestBytes));
  if (Sha256Hex(text) != sha256)
    return absl::DataLossError(absl::StrCat(path, " is not what the trainer reported"));
  absl::StatusOr<int64_t> bytes = BytesOf(text);
  if (bytes.ok()) return bytes;
  return absl::DataLossError(absl::StrCat(path, ": ", bytes.status().message()));
}

// "g12" -> 12, "100-g12" -> 12; 0 for other names.
int64_t GenerationIn(absl::string_view name) {
  const size_t mark = name.rfind('g');
  int64_t generation = 0;
  const bool marked = mark != absl::string_view::npos && (mark == 0 || name[mark - 1] == '-');
  return marked && absl::SimpleAtoi(name.substr(mark + 1), &generation) ? generation : 0;
}

}  // namespace

std::vector<std::string> StorageOutputPublisher::List(const std::string& folder) const {
  absl::StatusOr<std::vector<std::string>> names = root_.files().List(root_.Absolute(folder));
  if (names.ok()) return *std::move(names);
  if (!absl::IsNotFound(names.status())) {
    ANNEAL_LOG(WARNING) << "a folder of the storage root cannot be read" << Field("folder", folder)
                        << Field("why", names.status().message());
  }
  return {};
}

std::map<std::string, int64_t> StorageOutputPublisher::FindGenerations(
    const std::set<std::string>& jobs) {
  std::map<std::string, int64_t> newest;
  const auto note = [&newest](const std::string& job, int64_t generation) {
    if (generation > 0) newest[job] = std::max(newest[job], generation);
  };
  // Most of those that live have not begun, and have nothing there to look at.
  for (const std::string& job : List("jobs")) {
    if (jobs.count(job) == 0) continue;
    for (const std::string& log : List(absl::StrCat(JobPath(job), "/logs")))
      note(job, GenerationIn(log));
    for (const std::string& checkpoint : List(CheckpointsPath(job)))
      note(job, GenerationIn(checkpoint));
  }
  for (const std::string& name : List("outputs")) {
    std::string job;
    int64_t generation = 0;
    if (ParseStagedOutput(name, &job, &generation) && jobs.count(job) > 0) note(job, generation);
  }
  return newest;
}

absl::StatusOr<int64_t> StorageOutputPublisher::Publish(const std::string& job, int64_t generation,
                                                        const v1::JobResult& result) {
  const std::string staged = StagedOutputPath(job, generation), published = OutputPath(job);
  const absl::StatusOr<int64_t> bytes = CheckManifest(root_, staged, result.manifest_sha256());
  if (absl::IsNotFound(bytes.status())) {
    // Renamed by a turn that was not committed?
    return CheckManifest(root_, published, result.manifest_sha256());
  }
  ANNEAL_RETURN_IF_ERROR(bytes.status());
  ANNEAL_RETURN_IF_ERROR(root_.MoveToTrash(published));
  ANNEAL_RETURN_IF_ERROR(root_.Publish(root_.Absolute(staged), published));
  return bytes;
}

}  // namespace anneal
