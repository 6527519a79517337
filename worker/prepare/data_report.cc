#include "worker/prepare/data_report.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace anneal::prepare {
namespace {

constexpr char kFormatName[] = "anneal.data_report";
constexpr int kVersion = 1;
constexpr size_t kMaxIssuesInSummary = 100;

Json ToJson(const SplitSummary& split) {
  return {{"rows", split.rows},
          {"tokens", split.tokens},
          {"supervised_tokens", split.supervised_tokens},
          {"longest_row_tokens", split.longest()},
          {"row_tokens_p50", split.Percentile(50)},
          {"row_tokens_p90", split.Percentile(90)},
          {"row_tokens_p99", split.Percentile(99)}};
}

Json ToJson(const FileSummary& file) {
  return {{"name", file.name},
          {"split", file.split},
          {"rows", file.rows},
          {"bytes", file.bytes},
          {"sha256", file.sha256}};
}

}  // namespace

void IssueLog::Add(Issue issue) {
  if (issue.severity == "ERROR") {
    ++errors_;
    ++errors_by_code_[issue.code];
    if (kept_errors_.size() < kMaxKept) kept_errors_.push_back(std::move(issue));
    return;
  }
  Warning& warning = warnings_[issue.code];
  if (warning.rows++ == 0) warning.first = std::move(issue);
}

std::vector<Issue> IssueLog::First(size_t limit) const {
  std::vector<Issue> issues(kept_errors_.begin(),
                            kept_errors_.begin() + std::min(limit, kept_errors_.size()));
  for (const auto& [code, warning] : warnings_) {
    if (issues.size() >= limit) break;
    issues.push_back(warning.first);
    if (warning.rows > 1) {
      absl::StrAppend(&issues.back().message, " (and so in ", warning.rows - 1, " more rows)");
    }
  }
  return issues;
}

void SplitSummary::Add(int64_t row_tokens, int64_t row_supervised_tokens) {
  ++rows;
  tokens += row_tokens;
  supervised_tokens += row_supervised_tokens;
  lengths.push_back(static_cast<int32_t>(row_tokens));
}

int64_t SplitSummary::longest() const {
  return lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
}

int64_t SplitSummary::Percentile(int percent) const {
  if (lengths.empty()) return 0;
  std::vector<int32_t> sorted = lengths;
  const size_t rank = (sorted.size() - 1) * percent / 100;
  std::nth_element(sorted.begin(), sorted.begin() + rank, sorted.end());
  return sorted[rank];
}

protocol::PreparedReport Summarise(const DataReport& report) {
  return {.train_rows = report.train.rows,
          .validation_rows = report.validation.rows,
          .train_tokens = report.train.tokens,
          .train_supervised_tokens = report.train.supervised_tokens,
          .longest_row_tokens = std::max(report.train.longest(), report.validation.longest()),
          .duplicate_rows = report.duplicate_rows,
          .leaked_rows = report.leaked_rows,
          .dropped_rows = report.dropped_rows,
          .truncated_rows = report.truncated_rows,
          .error_count = report.issues.errors(),
          .warning_count = report.issues.warnings(),
          .issues = report.issues.First(kMaxIssuesInSummary)};
}

Json ToJson(const DataReport& report) {
  Json files = Json::array();
  for (const FileSummary& file : report.files) files.push_back(ToJson(file));
  const std::vector<Issue> issues = report.issues.First(IssueLog::kMaxKept);
  Json issues_json = Json::array();
  for (const Issue& issue : issues) {
    issues_json.push_back({{"severity", issue.severity},
                           {"code", issue.code},
                           {"file", issue.file},
                           {"line", issue.line},
                           {"column", issue.column},
                           {"field", issue.field},
                           {"message", issue.message},
                           {"hint", issue.hint}});
  }
  return {{"format", kFormatName},
          {"version", kVersion},
          {"content_key", report.content_key},
          {"files", std::move(files)},
          {"train", ToJson(report.train)},
          {"validation", ToJson(report.validation)},
          {"errors_by_code", report.issues.ErrorsByCode()},
          {"issues", std::move(issues_json)},
          // As it went up, so that a cached one can go up again.
          {"summary", protocol::ToJson(protocol::Report{.prepared = Summarise(report)})}};
}

absl::StatusOr<protocol::PreparedReport> SummaryFromJson(const Json& json) {
  const bool known = json.is_object() && json.value("format", Json()) == kFormatName &&
                     json.value("version", Json()) == kVersion;
  if (!known) {
    return absl::InvalidArgumentError("not a data report of this version");
  }
  ANNEAL_ASSIGN_OR_RETURN(protocol::Report report,
                          protocol::ReportFromJson(json.value("summary", Json())));
  if (!report.prepared) return absl::InvalidArgumentError("the data report has no summary");
  return *std::move(report.prepared);
}

}  // namespace anneal::prepare
