#pragma once
// The record of what was trained: one JSON line per committed step (docs/formats/ledger.md).

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file.h"

namespace anneal::trainer {

struct LedgerEntry {
  int64_t step = 0;
  std::vector<std::vector<int64_t>> rows;  // by logical shard: indices into the prepared data set
  int64_t supervised_tokens = 0;
  double loss = 0;  // mean over the supervised tokens, nats, before the update
  double learning_rate = 0;
  double grad_norm = 0;  // before clipping
};

// The line without its line end. Doubles in shortest round-trip form.
std::string FormatLedgerLine(const LedgerEntry& entry);

// Appends entries to a file. Rank 0 only. Holds nothing about time, speed, workers or generation,
// so that the file's hash is the same however the job was run. Guarded by its caller.
class LedgerWriter {
 public:
  // Goes on after what is in the file; makes an empty one if there is none. Errors name the path.
  static absl::StatusOr<std::unique_ptr<LedgerWriter>> Open(const std::string& path);

  // One write(2): a crash leaves whole lines, but for the last.
  absl::Status Append(const LedgerEntry& entry);

  const std::string& path() const { return path_; }
  int64_t bytes() const { return bytes_; }

 private:
  LedgerWriter(std::string path, UniqueFd fd, int64_t bytes)
      : path_(std::move(path)), fd_(std::move(fd)), bytes_(bytes) {}

  const std::string path_;
  const UniqueFd fd_;
  int64_t bytes_;  // in the file
};

}  // namespace anneal::trainer
