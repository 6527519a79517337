#include "common/format/checkpoint_manifest.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/format/json.h"

namespace anneal {
namespace {

constexpr size_t kMaxFiles = 100'000;
constexpr size_t kMaxNameBytes = 255;
constexpr size_t kSha256Digits = 64;

bool IsFileName(absl::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes && name.front() != '.' &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
         });
}

bool IsHash(absl::string_view text) {
  return text.size() == kSha256Digits && std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
         });
}

absl::Status Wrong(absl::string_view member, absl::string_view expected) {
  return absl::InvalidArgumentError(
      absl::StrCat("checkpoint manifest: ", member, " is not ", expected));
}

absl::StatusOr<int64_t> ReadNumber(const Json& json, const std::string& member) {
  const auto found = json.find(member);
  if (found == json.end() || !found->is_number_unsigned() ||
      !std::in_range<int64_t>(found->get<uint64_t>())) {
    return Wrong(member, "a whole number >= 0");
  }
  return found->get<int64_t>();
}

absl::StatusOr<std::string> ReadText(const Json& json, const std::string& member) {
  const auto found = json.find(member);
  if (found == json.end() || !found->is_string()) return Wrong(member, "a text");
  return found->get<std::string>();
}

absl::StatusOr<CheckpointFile> ReadFileEntry(const Json& json) {
  if (!json.is_object()) return Wrong("a member of files", "an object");
  CheckpointFile file;
  ANNEAL_ASSIGN_OR_RETURN(file.name, ReadText(json, "name"));
  ANNEAL_ASSIGN_OR_RETURN(file.bytes, ReadNumber(json, "bytes"));
  ANNEAL_ASSIGN_OR_RETURN(file.sha256, ReadText(json, "sha256"));
  if (!IsFileName(file.name) || file.name == kCheckpointManifestName) {
    return Wrong("the name of a file", "letters, digits, '-', '_' and '.'");
  }
  if (!IsHash(file.sha256)) {
    return Wrong(absl::StrCat("sha256 of ", file.name), "64 lower-case hexadecimal digits");
  }
  return file;
}

}  // namespace

std::string CheckpointStateName(int shard, int logical_shards) {
  return absl::StrFormat("state-%05d-of-%05d.safetensors", shard, logical_shards);
}

std::string FormatCheckpointManifest(const CheckpointManifest& manifest) {
  Json json;
  json["version"] = CheckpointManifest::kVersion;
  json["job"] = manifest.job;
  json["generation"] = manifest.generation;
  json["step"] = manifest.step;
  json["total_steps"] = manifest.total_steps;
  json["numeric_fingerprint"] = manifest.numeric_fingerprint;
  json["files"] = Json::array();
  for (const CheckpointFile& file : manifest.files) {
    json["files"].push_back({{"name", file.name}, {"bytes", file.bytes}, {"sha256", file.sha256}});
  }
  return DumpJson(json) + "\n";
}

absl::StatusOr<CheckpointManifest> ParseCheckpointManifest(absl::string_view text) {
  ANNEAL_ASSIGN_OR_RETURN(
      const Json json,
      ParseJson(text, {.max_bytes = CheckpointManifest::kMaxBytes, .max_depth = 4}));
  if (!json.is_object()) return Wrong("the file", "a JSON object");
  ANNEAL_ASSIGN_OR_RETURN(const int64_t version, ReadNumber(json, "version"));
  if (version != CheckpointManifest::kVersion) {
    return Wrong("version",
                 absl::StrCat(CheckpointManifest::kVersion, ", the one this program reads"));
  }
  CheckpointManifest manifest;
  ANNEAL_ASSIGN_OR_RETURN(manifest.job, ReadText(json, "job"));
  ANNEAL_ASSIGN_OR_RETURN(manifest.generation, ReadNumber(json, "generation"));
  ANNEAL_ASSIGN_OR_RETURN(manifest.step, ReadNumber(json, "step"));
  ANNEAL_ASSIGN_OR_RETURN(manifest.total_steps, ReadNumber(json, "total_steps"));
  if (manifest.step < 1 || manifest.step > manifest.total_steps) {
    return Wrong("step", "between 1 and total_steps");
  }
  ANNEAL_ASSIGN_OR_RETURN(manifest.numeric_fingerprint, ReadText(json, "numeric_fingerprint"));
  const auto files = json.find("files");
  if (files == json.end() || !files->is_array() || files->size() > kMaxFiles) {
    return Wrong("files", absl::StrCat("a list of at most ", kMaxFiles));
  }
  std::set<std::string> names;
  for (const Json& entry : *files) {
    ANNEAL_ASSIGN_OR_RETURN(manifest.files.emplace_back(), ReadFileEntry(entry));
    if (!names.insert(manifest.files.back().name).second) {
      return Wrong("files", absl::StrCat("without repetition: ", manifest.files.back().name));
    }
  }
  return manifest;
}

}  // namespace anneal
