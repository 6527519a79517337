#include "coordinator/lifecycle/report_messages.h"

#include <algorithm>
#include <cmath>

#include "coordinator/lifecycle/proto_time.h"
#include "google/protobuf/util/time_util.h"

namespace anneal {
namespace {

constexpr size_t kMaxIssues = 100;

// The range that Timestamp and Duration have in common; a child may send any double.
constexpr double kMaxSeconds = 253402300799;

google::protobuf::Duration DurationOf(double seconds) {
  return google::protobuf::util::TimeUtil::MillisecondsToDuration(
      std::llround(std::clamp(seconds, 0.0, kMaxSeconds) * 1e3));
}

}  // namespace

v1::Issue IssueFrom(const protocol::IssueReport& report) {
  v1::Issue issue;
  if (report.severity == "INFO") {
    issue.set_severity(v1::Issue::SEVERITY_INFO);
  } else if (report.severity == "WARNING") {
    issue.set_severity(v1::Issue::SEVERITY_WARNING);
  } else {
    issue.set_severity(v1::Issue::SEVERITY_ERROR);
  }
  issue.set_code(report.code);
  issue.set_file(report.file);
  issue.set_line(report.line);
  issue.set_column(report.column);
  issue.set_field(report.field);
  issue.set_message(report.message);
  issue.set_hint(report.hint);
  return issue;
}

v1::EvaluationPoint EvaluationFrom(const protocol::EvaluationReport& report) {
  v1::EvaluationPoint point;
  point.set_step(report.step);
  point.set_loss(report.loss);
  point.set_exact_match(report.exact_match);
  if (report.choice_accuracy.has_value()) point.set_choice_accuracy(*report.choice_accuracy);
  point.set_rows(report.rows);
  return point;
}

v1::DataSummary DataSummaryFrom(const protocol::PreparedReport& report) {
  v1::DataSummary summary;
  summary.set_train_rows(report.train_rows);
  summary.set_validation_rows(report.validation_rows);
  summary.set_train_tokens(report.train_tokens);
  summary.set_train_supervised_tokens(report.train_supervised_tokens);
  summary.set_longest_row_tokens(report.longest_row_tokens);
  summary.set_duplicate_rows(report.duplicate_rows);
  summary.set_leaked_rows(report.leaked_rows);
  summary.set_dropped_rows(report.dropped_rows);
  summary.set_truncated_rows(report.truncated_rows);
  summary.set_error_count(report.error_count);
  summary.set_warning_count(report.warning_count);
  for (size_t i = 0; i < std::min(report.issues.size(), kMaxIssues); ++i) {
    *summary.add_issues() = IssueFrom(report.issues[i]);
  }
  return summary;
}

v1::JobResult ResultFrom(const protocol::ResultReport& report) {
  v1::JobResult result;
  if (report.before.has_value()) *result.mutable_before() = EvaluationFrom(*report.before);
  if (report.after.has_value()) *result.mutable_after() = EvaluationFrom(*report.after);
  result.set_first_loss(report.first_loss);
  result.set_last_loss(report.last_loss);
  *result.mutable_train_time() = DurationOf(report.train_seconds);
  *result.mutable_evaluation_time() = DurationOf(report.evaluation_seconds);
  result.set_manifest_sha256(report.manifest_sha256);
  if (report.merged_logit_difference.has_value())
    result.set_merged_logit_difference(*report.merged_logit_difference);
  return result;
}

v1::StepMetrics StepMetricsFrom(const protocol::StepReport& report, int64_t generation) {
  v1::StepMetrics metrics;
  metrics.set_step(report.step);
  metrics.set_train_loss(report.train_loss);
  metrics.set_learning_rate(report.learning_rate);
  metrics.set_grad_norm(report.grad_norm);
  metrics.set_tokens(report.tokens);
  metrics.set_supervised_tokens(report.supervised_tokens);
  if (report.step_seconds > 0)
    metrics.set_tokens_per_second(static_cast<double>(report.tokens) / report.step_seconds);
  metrics.set_step_seconds(report.step_seconds);
  metrics.set_generation(generation);
  const double unix_time = std::clamp(report.unix_time, 0.0, kMaxSeconds);
  *metrics.mutable_time() = TimestampOf(absl::FromUnixMillis(std::llround(unix_time * 1e3)));
  metrics.set_epoch(report.epoch);
  return metrics;
}

}  // namespace anneal
