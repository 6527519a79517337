#include "common/storage/layout.h"

#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status.h"

namespace anneal {
namespace {

constexpr size_t kMaxPathBytes = 1024;
constexpr absl::string_view kStagedMark = ".partial-g";

}  // namespace

bool IsSha256(absl::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == absl::string_view::npos;
}

bool IsSafeRelativePath(absl::string_view path) {
  if (path.size() > kMaxPathBytes || path.find('\0') != absl::string_view::npos) return false;
  for (absl::string_view part : absl::StrSplit(path, '/')) {
    if (part.empty() || part == "." || part == "..") return false;
  }
  return true;
}

std::string BlobPath(absl::string_view sha256) {
  ANNEAL_CHECK(IsSha256(sha256));
  return absl::StrCat("blobs/sha256/", sha256.substr(0, 2), "/", sha256);
}

std::string ModelPath(absl::string_view project, absl::string_view id) {
  ANNEAL_CHECK(IsSafeRelativePath(project) && IsSafeRelativePath(id) &&
               !absl::StrContains(id, "/"));
  return absl::StrCat("models/", project, "/", id);
}

std::string JobPath(absl::string_view job) { return absl::StrCat("jobs/", job); }
std::string JobLogPath(absl::string_view job, int64_t generation, int rank) {
  const std::string folder = absl::StrCat(JobPath(job), "/logs/");
  if (rank < 0) return absl::StrCat(folder, "prepare.log");
  return absl::StrCat(folder, "g", generation, "/rank", rank, ".log");
}
std::string CheckpointsPath(absl::string_view job) {
  return absl::StrCat("jobs/", job, "/checkpoints");
}
std::string OutputPath(absl::string_view job) { return absl::StrCat("outputs/", job); }
std::string StagedOutputPath(absl::string_view job, int64_t generation) {
  return absl::StrCat(OutputPath(job), kStagedMark, generation);
}
bool ParseStagedOutput(absl::string_view name, std::string* job, int64_t* generation) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, kStagedMark);
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[1], generation)) return false;
  *job = std::string(parts[0]);
  return true;
}
std::string PreparedPath(absl::string_view job) { return absl::StrCat("blobs/prepared/", job); }
std::string PreparedCachePath() { return "blobs/prepared-cache"; }

}  // namespace anneal
