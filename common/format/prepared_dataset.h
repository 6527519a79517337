#pragma once
// The prepared data set: rows of token ids with the tokens that count for the loss, in one
// safetensors file. anneal-prepare writes it, the trainer maps it. docs/formats/prepared_dataset.md
// describes the bytes.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/format/safetensors.h"

namespace anneal {

// What the file says about itself in its metadata.
struct PreparedDatasetInfo {
  // SHA-256 (hex) over everything the rows follow from: data, tokenizer, template, template_time
  // and options.
  std::string content_key;
  int64_t vocab_size = 0;  // ids are below it
  int64_t max_length = 0;  // no row is longer
  // Totals; filled by the writer.
  int64_t examples = 0;
  int64_t tokens = 0;
  int64_t supervised_tokens = 0;
  int64_t longest_example = 0;
};

// One row. The spans live as long as what they were taken from.
struct PreparedExample {
  absl::Span<const int32_t> token_ids;  // never empty
  absl::Span<const uint8_t>
      loss_weight;  // same length, 0 or 1. The first is 0: nothing predicts a row's first token.
  int32_t source_file = 0;  // index into the task's list of files
  int64_t source_row = 0;   // index of the row among the rows of its file, from 0
};

// A mapped prepared data set. Constant after construction, so thread-safe.
//
// Open() checks everything of the size of the number of examples; token ids and weights are checked
// row by row in Example(), so that a rank touches only the bytes of its own rows. For the same
// reason the number of supervised tokens of each row is an array of its own: a rank knows a step's
// total without reading the other ranks' rows. The file must not be truncated while mapped; it
// never is, since files are published by rename and never written again.
class PreparedDataset {
 public:
  // NOT_FOUND if it cannot be opened, INVALID_ARGUMENT naming the path and what is wrong with the
  // file.
  static absl::StatusOr<std::unique_ptr<PreparedDataset>> Open(const std::string& path);

  const PreparedDatasetInfo& info() const { return info_; }
  const std::string& path() const { return file_->path(); }

  // Number of examples; at least 1.
  int64_t size() const { return info_.examples; }
  int64_t length(int64_t example) const { return offsets_[example + 1] - offsets_[example]; }
  // At least 1 for each example, and the sum of its loss weights.
  int64_t supervised_tokens(int64_t example) const { return supervised_tokens_[example]; }

  // The row, checked: ids within the vocabulary, weights 0 or 1 that add up. INVALID_ARGUMENT names
  // path and example. `example` is in [0, size()).
  absl::StatusOr<PreparedExample> Example(int64_t example) const;

 private:
  explicit PreparedDataset(std::unique_ptr<SafetensorsFile> file) : file_(std::move(file)) {}
  absl::Status ReadInfo();
  absl::Status MapArrays();
  absl::Status CheckExamples() const;

  // All constant after Open(); the spans point into the file.
  const std::unique_ptr<SafetensorsFile> file_;
  PreparedDatasetInfo info_;
  absl::Span<const int64_t> offsets_;            // [examples + 1]
  absl::Span<const int64_t> source_row_;         // [examples]
  absl::Span<const int32_t> source_file_;        // [examples]
  absl::Span<const int32_t> supervised_tokens_;  // [examples]
  absl::Span<const int32_t> token_ids_;          // [tokens]
  absl::Span<const uint8_t> loss_weight_;        // [tokens]
};

// Writes a prepared data set row by row with little memory: each array grows in a temporary file
// beside `path`; Finish() assembles them, syncs and renames, so `path` is either absent or whole.
// The temporaries go away with the writer. Guarded by its caller.
class PreparedDatasetWriter {
 public:
  // `info`'s totals are ignored. `path`'s folder must exist.
  static absl::StatusOr<std::unique_ptr<PreparedDatasetWriter>> Create(
      const std::string& path, const PreparedDatasetInfo& info);
  ~PreparedDatasetWriter();
  PreparedDatasetWriter(const PreparedDatasetWriter&) = delete;
  PreparedDatasetWriter& operator=(const PreparedDatasetWriter&) = delete;

  // INVALID_ARGUMENT if the row breaks a rule of the format; the file's error code if it cannot be
  // written.
  absl::Status Add(const PreparedExample& example);
  // Publishes the file and returns its metadata. FAILED_PRECONDITION without rows. Call once, last.
  absl::StatusOr<PreparedDatasetInfo> Finish();

 private:
  class Column;
  PreparedDatasetWriter(const std::string& path, const PreparedDatasetInfo& info);
  absl::Status Assemble(const std::string& path);

  const std::string path_;
  PreparedDatasetInfo info_;
  std::unique_ptr<Column> offsets_, source_row_, source_file_, supervised_tokens_, token_ids_,
      loss_weight_;
};

}  // namespace anneal
