#include "worker/trainer/checkpoint/checkpoint_files.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/sha256.h"
#include "common/base/status.h"

namespace anneal::trainer {
namespace {

constexpr int64_t kCopyBytes = 1 << 20;
constexpr int64_t kMaxElements =
    int64_t{1} << 48;  // of a tensor: far beyond any, and sums of two do not overflow

// Appends to a file and hashes what goes in.
class HashedFile {
 public:
  static absl::StatusOr<HashedFile> Create(FileSystem& files, const std::string& folder,
                                           const std::string& name) {
    ANNEAL_ASSIGN_OR_RETURN(auto file, files.OpenForAppend(folder + "/" + name, 0));
    return HashedFile(name, std::move(file));
  }

  absl::Status Append(absl::string_view bytes) {
    ANNEAL_RETURN_IF_ERROR(file_->Append(bytes));
    hash_->Update(bytes);
    bytes_ += static_cast<int64_t>(bytes.size());
    return absl::OkStatus();
  }
  absl::StatusOr<CheckpointFile> Finish() {
    ANNEAL_RETURN_IF_ERROR(file_->Sync());
    return CheckpointFile{.name = name_, .bytes = bytes_, .sha256 = hash_->HexDigest()};
  }

 private:
  HashedFile(std::string name, std::unique_ptr<WritableFile> file)
      : name_(std::move(name)), file_(std::move(file)), hash_(std::make_unique<Sha256>()) {}

  std::string name_;
  std::unique_ptr<WritableFile> file_;
  std::unique_ptr<Sha256> hash_;
  int64_t bytes_ = 0;
};

// A range's name in its file. The file's metadata says under the same key where the range begins.
std::string KeyOf(const StateRange& range) {
  return absl::StrCat(StateKindName(range.kind), "/", range.tensor);
}

// What a state file holds of one tensor or moment.
struct StoredRange {
  int64_t first = 0;
  absl::Span<const float> elements;
};

// Nothing, if the file holds nothing under this key.
absl::StatusOr<StoredRange> FindRange(const SafetensorsFile& file, const std::string& key) {
  const auto found = file.tensors().find(key);
  if (found == file.tensors().end()) return StoredRange{};
  StoredRange range;
  const auto first = file.metadata().find(key);
  if (first == file.metadata().end() || !absl::SimpleAtoi(first->second, &range.first) ||
      range.first < 0 || range.first > kMaxElements) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path(), " does not say where ", key, " begins"));
  }
  const absl::StatusOr<absl::Span<const float>> elements = found->second.Values<float>();
  if (!elements.ok()) return Annotate(elements.status(), absl::StrCat(file.path(), ": ", key));
  range.elements = *elements;
  return range;
}

struct Overlap {
  int64_t in_wanted = 0, in_stored = 0, elements = 0;
};
Overlap OverlapOf(const StateRange& wanted, const StoredRange& stored) {
  const int64_t begin = std::max(wanted.first, stored.first);
  const int64_t end = std::min(wanted.first + wanted.elements,
                               stored.first + static_cast<int64_t>(stored.elements.size()));
  return {begin - wanted.first, begin - stored.first, std::max<int64_t>(0, end - begin)};
}

}  // namespace

absl::StatusOr<CheckpointFile> WriteStateFile(FileSystem& files, const std::string& folder,
                                              const std::string& name,
                                              const std::vector<StateBytes>& state) {
  std::vector<TensorSpec> specs;
  std::map<std::string, std::string> first_of;
  for (const StateBytes& part : state) {
    specs.push_back({KeyOf(part.range), DType::kF32, {part.range.elements}});
    first_of[KeyOf(part.range)] = absl::StrCat(part.range.first);
  }
  ANNEAL_ASSIGN_OR_RETURN(HashedFile file, HashedFile::Create(files, folder, name));
  ANNEAL_RETURN_IF_ERROR(file.Append(SafetensorsHeader(specs, first_of)));
  for (const StateBytes& part : state) {
    ANNEAL_RETURN_IF_ERROR(file.Append(absl::string_view(
        reinterpret_cast<const char*>(part.values.data()), part.values.size() * sizeof(float))));
  }
  return file.Finish();
}

absl::StatusOr<CheckpointFile> WriteTextFile(FileSystem& files, const std::string& folder,
                                             const std::string& name, absl::string_view text) {
  ANNEAL_ASSIGN_OR_RETURN(HashedFile file, HashedFile::Create(files, folder, name));
  ANNEAL_RETURN_IF_ERROR(file.Append(text));
  return file.Finish();
}

absl::StatusOr<CheckpointFile> WritePrefixOf(FileSystem& files, const std::string& folder,
                                             const std::string& name, const std::string& source,
                                             int64_t bytes) {
  ANNEAL_ASSIGN_OR_RETURN(const auto in, files.OpenForRead(source));
  ANNEAL_ASSIGN_OR_RETURN(HashedFile out, HashedFile::Create(files, folder, name));
  for (int64_t done = 0; done < bytes;) {
    ANNEAL_ASSIGN_OR_RETURN(const std::string part,
                            in->ReadAt(done, std::min(kCopyBytes, bytes - done)));
    if (part.empty()) {
      return absl::DataLossError(absl::StrCat(source, " ends at ", done, " of ", bytes, " bytes"));
    }
    ANNEAL_RETURN_IF_ERROR(out.Append(part));
    done += static_cast<int64_t>(part.size());
  }
  return out.Finish();
}

absl::StatusOr<CheckpointReader> CheckpointReader::Open(const std::string& folder,
                                                        const std::string& manifest_sha256,
                                                        const std::vector<StateRange>& ranges,
                                                        bool with_records) {
  const std::string path = absl::StrCat(folder, "/", kCheckpointManifestName);
  ANNEAL_ASSIGN_OR_RETURN(const std::string text,
                          ReadSmallFile(path, CheckpointManifest::kMaxBytes));
  if (Sha256Hex(text) != manifest_sha256) {
    return absl::DataLossError(absl::StrCat(path, " is not as it was written"));
  }
  ANNEAL_ASSIGN_OR_RETURN(CheckpointManifest manifest, ParseCheckpointManifest(text));
  CheckpointReader reader(folder, std::move(manifest));
  if (with_records) ANNEAL_RETURN_IF_ERROR(reader.CheckRecords());
  ANNEAL_RETURN_IF_ERROR(reader.CheckState(ranges));
  return reader;
}

absl::Status CheckpointReader::Check(const CheckpointFile& file) const {
  const std::string path = folder_ + "/" + file.name;
  ANNEAL_ASSIGN_OR_RETURN(const std::string sha256, Sha256OfFile(path));
  if (sha256 == file.sha256) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(path, " is not as it was written"));
}

absl::Status CheckpointReader::CheckRecords() const {
  for (const absl::string_view name : {kCheckpointLedgerName, kCheckpointHistoryName}) {
    const auto found = std::find_if(manifest_.files.begin(), manifest_.files.end(),
                                    [&](const CheckpointFile& file) { return file.name == name; });
    if (found == manifest_.files.end()) {
      return absl::DataLossError(absl::StrCat(folder_, " has no ", name));
    }
    ANNEAL_RETURN_IF_ERROR(Check(*found));
  }
  return absl::OkStatus();
}

absl::Status CheckpointReader::CheckState(const std::vector<StateRange>& ranges) {
  std::vector<int64_t> covered(ranges.size(), 0);
  for (const CheckpointFile& listed : manifest_.files) {
    if (!absl::EndsWith(listed.name, ".safetensors")) continue;
    ANNEAL_ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open(folder_ + "/" + listed.name));
    int64_t overlap = 0;
    for (size_t i = 0; i < ranges.size(); ++i) {
      ANNEAL_ASSIGN_OR_RETURN(const StoredRange stored, FindRange(*file, KeyOf(ranges[i])));
      const int64_t elements = OverlapOf(ranges[i], stored).elements;
      covered[i] += elements;
      overlap += elements;
    }
    if (overlap == 0) continue;
    ANNEAL_RETURN_IF_ERROR(Check(listed));
    state_.push_back(std::move(file));
  }
  // Files of one checkpoint hold no element twice, so the count tells whether all are there.
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (covered[i] != ranges[i].elements) {
      return absl::DataLossError(absl::StrCat(folder_, " holds ", covered[i], " of ",
                                              ranges[i].elements, " elements of ",
                                              KeyOf(ranges[i])));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckpointReader::ReadState(const std::vector<StateRange>& ranges,
                                         const Take& take) const {
  for (const auto& file : state_) {
    for (size_t i = 0; i < ranges.size(); ++i) {
      ANNEAL_ASSIGN_OR_RETURN(const StoredRange stored, FindRange(*file, KeyOf(ranges[i])));
      const Overlap overlap = OverlapOf(ranges[i], stored);
      if (overlap.elements == 0) continue;
      take(i, overlap.in_wanted, stored.elements.subspan(overlap.in_stored, overlap.elements));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> CheckpointReader::ReadHistory() const {
  return ReadSmallFile(folder_ + "/" + kCheckpointHistoryName, /*max_bytes=*/1u << 30);
}

}  // namespace anneal::trainer
