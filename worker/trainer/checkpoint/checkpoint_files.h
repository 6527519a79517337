#pragma once
// The files of one checkpoint (docs/formats/checkpoint.md): writing them, and reading them back
// only if every byte is as it was written.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/format/checkpoint_manifest.h"
#include "common/format/safetensors.h"
#include "common/storage/file_system.h"
#include "worker/trainer/checkpoint/state_range.h"

namespace anneal::trainer {

// A part of the state as it is written: `values` holds range.elements floats.
struct StateBytes {
  StateRange range;
  absl::Span<const float> values;
};

// Each writes `folder`/<name>, durable when it returns. The folder must be there.
absl::StatusOr<CheckpointFile> WriteStateFile(FileSystem& files, const std::string& folder,
                                              const std::string& name,
                                              const std::vector<StateBytes>& state);
absl::StatusOr<CheckpointFile> WriteTextFile(FileSystem& files, const std::string& folder,
                                             const std::string& name, absl::string_view text);
// The first `bytes` of `source`.
absl::StatusOr<CheckpointFile> WritePrefixOf(FileSystem& files, const std::string& folder,
                                             const std::string& name, const std::string& source,
                                             int64_t bytes);

// One checkpoint that was found to be whole, as far as this rank reads it. Guarded by its caller.
class CheckpointReader {
 public:
  // Compares with their hashes the manifest, the state files that hold any of `ranges`, and for
  // `with_records` ledger and history too. Any error means that this checkpoint cannot be resumed
  // from, and says why: a file that is missing, cut or changed, or
  // ranges that are not wholly covered.
  static absl::StatusOr<CheckpointReader> Open(const std::string& folder,
                                               const std::string& manifest_sha256,
                                               const std::vector<StateRange>& ranges,
                                               bool with_records);

  const CheckpointManifest& manifest() const { return manifest_; }
  // Takes elements of ranges[range], the first of them being its element `first`; they are gone
  // when it returns.
  using Take = std::function<void(size_t range, int64_t first, absl::Span<const float> elements)>;
  // Calls `take` until every element of `ranges`, which were given to Open, was taken once.
  absl::Status ReadState(const std::vector<StateRange>& ranges, const Take& take) const;
  std::string ledger_path() const { return folder_ + "/" + kCheckpointLedgerName; }
  absl::StatusOr<std::string> ReadHistory() const;

 private:
  CheckpointReader(std::string folder, CheckpointManifest manifest)
      : folder_(std::move(folder)), manifest_(std::move(manifest)) {}
  absl::Status Check(const CheckpointFile& file) const;
  absl::Status CheckRecords() const;
  // Opens the state files that hold any of `ranges`, and sees that together they hold all of them.
  absl::Status CheckState(const std::vector<StateRange>& ranges);

  std::string folder_;
  CheckpointManifest manifest_;
  std::vector<std::unique_ptr<SafetensorsFile>> state_;
};

}  // namespace anneal::trainer
