#pragma once
// The last file written into a checkpoint: what the checkpoint is of, and the hash of every other
// file in it (docs/formats/checkpoint.md).

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace anneal {

inline constexpr char kCheckpointManifestName[] = "manifest.json";
inline constexpr char kCheckpointLedgerName[] = "ledger.jsonl";
inline constexpr char kCheckpointHistoryName[] = "history.jsonl";
// "state-00001-of-00004.safetensors": what belongs to logical shard `shard`, counted from 0.
std::string CheckpointStateName(int shard, int logical_shards);

struct CheckpointFile {
  std::string name;
  int64_t bytes = 0;
  std::string sha256;
  bool operator==(const CheckpointFile&) const = default;
};

struct CheckpointManifest {
  static constexpr int kVersion = 1;
  static constexpr int64_t kMaxBytes = 16 << 20;

  std::string job;
  int64_t generation = 0;   // that wrote it
  int64_t step = 0;         // finished when it was taken
  int64_t total_steps = 0;  // of the plan; the learning rate of a step follows from both
  std::string numeric_fingerprint;
  std::vector<CheckpointFile> files;
};

std::string FormatCheckpointManifest(const CheckpointManifest& manifest);
// INVALID_ARGUMENT says which member is wrong: a version of the future, numbers out of range, a
// hash that is none, a name that is twice there or could lead out of the folder.
absl::StatusOr<CheckpointManifest> ParseCheckpointManifest(absl::string_view text);

}  // namespace anneal
