#pragma once
// The files of one checkpoint (docs/formats/checkpoint.md): writing them, and reading them back
// only if every byte is as it was written.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/format/checkpoint_manifest.h"
#include "common/format/safetensors.h"
#include "common/storage/file_system.h"
#include "worker/trainer/checkpoint/state_slices.h"

namespace anneal::trainer {

// Each writes `folder`/<name>, durable when it returns. The folder must be there.
absl::StatusOr<CheckpointFile> WriteStateFile(FileSystem& files, const std::string& folder,
                                              const std::string& name,
                                              const std::vector<StateSlice>& slices);
absl::StatusOr<CheckpointFile> WriteTextFile(FileSystem& files, const std::string& folder,
                                             const std::string& name, absl::string_view text);
// The first `bytes` of `source`.
absl::StatusOr<CheckpointFile> WritePrefixOf(FileSystem& files, const std::string& folder,
                                             const std::string& name, const std::string& source,
                                             int64_t bytes);

// One checkpoint that was found to be whole, as far as this rank reads it. Guarded by its caller.
class CheckpointReader {
 public:
  // Compares with their hashes the manifest, the state files that hold any of `slices`, and for
  // `with_records` ledger and history too. Any error means that this checkpoint cannot be resumed
  // from, and says why: a file that is missing, cut or changed, or
  // slices that are not wholly covered.
  static absl::StatusOr<CheckpointReader> Open(const std::string& folder,
                                               const std::string& manifest_sha256,
                                               const std::vector<StateSlice>& slices,
                                               bool with_records);

  const CheckpointManifest& manifest() const { return manifest_; }
  // Fills the slices given to Open.
  absl::Status ReadState(const std::vector<StateSlice>& slices) const;
  std::string ledger_path() const { return folder_ + "/" + kCheckpointLedgerName; }
  absl::StatusOr<std::string> ReadHistory() const;

 private:
  CheckpointReader(std::string folder, CheckpointManifest manifest)
      : folder_(std::move(folder)), manifest_(std::move(manifest)) {}
  absl::Status Check(const CheckpointFile& file) const;
  absl::Status CheckRecords() const;
  // Opens the state files that hold any of `slices`, and sees that together they hold all of them.
  absl::Status CheckState(const std::vector<StateSlice>& slices);

  std::string folder_;
  CheckpointManifest manifest_;
  std::vector<std::unique_ptr<SafetensorsFile>> state_;
};

}  // namespace anneal::trainer
