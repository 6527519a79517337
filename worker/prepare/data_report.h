#pragma once
// What prepare has found out about the data: counts, lengths and issues, for people and for
// data_report.json.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/format/json.h"
#include "common/protocol/messages.h"
#include "worker/prepare/row.h"

namespace anneal::prepare {

// All issues counted, the first kMaxKept of them kept. Guarded by its caller.
//
// Errors are kept one by one. Warnings repeat themselves on every row of some data sets, so they
// are kept once a kind, with their number and their first place.
class IssueLog {
 public:
  static constexpr size_t kMaxKept = 100'000;

  void Add(Issue issue);
  int64_t errors() const { return errors_; }
  // Kinds of warnings.
  int64_t warnings() const { return static_cast<int64_t>(warnings_.size()); }
  // Errors in the order of their rows, then warnings; at most `limit`.
  std::vector<Issue> First(size_t limit) const;
  std::map<std::string, int64_t> ErrorsByCode() const { return errors_by_code_; }

 private:
  struct Warning {
    Issue first;
    int64_t rows = 0;
  };
  int64_t errors_ = 0;
  std::vector<Issue> kept_errors_;
  std::map<std::string, int64_t> errors_by_code_;
  std::map<std::string, Warning> warnings_;  // by code
};

// Token counts of one split.
struct SplitSummary {
  int64_t rows = 0;
  int64_t tokens = 0;
  int64_t supervised_tokens = 0;
  std::vector<int32_t> lengths;  // of the rows, in tokens

  void Add(int64_t row_tokens, int64_t row_supervised_tokens);
  int64_t longest() const;
  // The length that `percent` of the rows do not exceed; 0 without rows.
  int64_t Percentile(int percent) const;
};

struct FileSummary {
  std::string name;   // as the user knows it
  std::string split;  // "train" or "validation"
  int64_t rows = 0;
  int64_t bytes = 0;
  std::string sha256;
};

struct DataReport {
  std::string content_key;
  std::vector<FileSummary> files;
  SplitSummary train, validation;
  int64_t duplicate_rows = 0;  // training rows that repeat an earlier one
  int64_t leaked_rows = 0;     // validation rows that are training rows too
  int64_t dropped_rows = 0;
  int64_t truncated_rows = 0;
  IssueLog issues;
};

// As docs/formats/data_report.md describes.
Json ToJson(const DataReport& report);
// Counts and the first 100 issues; the paths are left empty.
protocol::PreparedReport Summarise(const DataReport& report);
// The summary in a data_report.json written before; INVALID_ARGUMENT if `json` is none.
absl::StatusOr<protocol::PreparedReport> SummaryFromJson(const Json& json);

}  // namespace anneal::prepare
