#include "coordinator/collection/output_publisher.h"

#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/storage/file_system.h"
#include "common/storage/layout.h"

namespace anneal {
namespace {

// NOT_FOUND if there is none.
absl::Status CheckManifest(const StorageRoot& root, const std::string& folder,
                           const std::string& sha256) {
  const std::string path = root.Absolute(absl::StrCat(folder, "/manifest.json"));
  ANNEAL_ASSIGN_OR_RETURN(const std::string text,
                          ReadSmallFile(root.files(), path, kMaxOutputManifestBytes));
  if (Sha256Hex(text) == sha256) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(path, " is not what the trainer reported"));
}

}  // namespace

absl::Status StorageOutputPublisher::Publish(const std::string& job, int64_t generation,
                                             const v1::JobResult& result) {
  const std::string staged = StagedOutputPath(job, generation), published = OutputPath(job);
  const absl::Status whole = CheckManifest(root_, staged, result.manifest_sha256());
  if (absl::IsNotFound(whole)) {
    // Renamed by a turn that was not committed?
    return CheckManifest(root_, published, result.manifest_sha256());
  }
  ANNEAL_RETURN_IF_ERROR(whole);
  ANNEAL_RETURN_IF_ERROR(root_.MoveToTrash(published));
  return root_.Publish(root_.Absolute(staged), published);
}

}  // namespace anneal
