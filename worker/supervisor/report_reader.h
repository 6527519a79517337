#pragma once
// Reads a child's reports.jsonl, which may be growing, behind a bounded window of what the
// coordinator has not acknowledged.

#include <cstdint>
#include <deque>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/base/file.h"

namespace anneal {

struct NumberedReport {
  int64_t sequence = 0;  // number of the line, from 1
  std::string json;      // a protocol::Report
};

// Guarded by its owner. A new reader starts at the file's beginning: the coordinator's
// acknowledgement, not memory of ours, says what is done with.
class ReportReader {
 public:
  // In one window, so that it fits into one message to the coordinator.
  static constexpr size_t kMaxReports = 256;
  static constexpr size_t kMaxBytes = 1u << 20;

  explicit ReportReader(std::string path) : path_(std::move(path)) {}

  // Reads complete lines until the window is full or there are no more. Whether the window has
  // changed. A line that is no report takes its place in the window as an issue that says so,
  // because numbers have no gaps. A file that is not there yet has no lines.
  absl::StatusOr<bool> Poll();
  // Reports up to `sequence` need not be kept.
  void Acknowledge(int64_t sequence);

  const std::deque<NumberedReport>& window() const { return window_; }
  // Whether the last Poll saw the end of the file, so that the window holds all that is not
  // acknowledged.
  bool at_end() const { return at_end_; }

 private:
  bool WindowIsFull() const { return window_.size() >= kMaxReports || window_bytes_ >= kMaxBytes; }
  // Takes lines off the front of `text` into the window; returns how many bytes are done with.
  size_t TakeLines(absl::string_view text);
  void TakeLine(absl::string_view line);

  const std::string path_;
  UniqueFd file_;
  int64_t offset_ = 0;  // of the first line not taken
  int64_t lines_ = 0;   // taken, or skipped as acknowledged
  int64_t acknowledged_ = 0;
  bool in_long_line_ =
      false;  // the beginning of a line beyond the limit was dropped; its end is not reached
  bool at_end_ = false;
  std::deque<NumberedReport> window_;
  size_t window_bytes_ = 0;
};

}  // namespace anneal
