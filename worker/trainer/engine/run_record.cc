#include "worker/trainer/engine/run_record.h"

#include <charconv>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status.h"
#include "common/format/json.h"

namespace anneal::trainer {
namespace {

// The shortest text that reads back to the same double.
std::string Shortest(double value) {
  char buffer[32];
  return std::string(buffer, std::to_chars(buffer, buffer + sizeof(buffer), value).ptr);
}

std::string EvaluationColumns(const protocol::EvaluationReport* evaluation) {
  if (evaluation == nullptr) return ",,,";
  return absl::StrCat(
      ",", Shortest(evaluation->loss), ",", Shortest(evaluation->exact_match), ",",
      evaluation->choice_accuracy.has_value() ? Shortest(*evaluation->choice_accuracy) : "");
}

}  // namespace

void RunRecord::Add(const protocol::StepReport& step) { steps_.push_back(step); }
void RunRecord::Add(const protocol::EvaluationReport& evaluation) {
  evaluations_.push_back(evaluation);
}

std::string RunRecord::ToJsonLines() const {
  std::string lines;
  for (const protocol::StepReport& step : steps_)
    absl::StrAppend(&lines, DumpJson(ToJson(protocol::Report{.step = step})), "\n");
  for (const protocol::EvaluationReport& evaluation : evaluations_) {
    absl::StrAppend(&lines, DumpJson(ToJson(protocol::Report{.evaluation = evaluation})), "\n");
  }
  return lines;
}

absl::StatusOr<RunRecord> RunRecord::FromJsonLines(absl::string_view text) {
  RunRecord record;
  int64_t line_number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::string where = absl::StrCat("history line ", ++line_number);
    const absl::StatusOr<Json> json = ParseJson(line);
    if (!json.ok()) return Annotate(json.status(), where);
    const absl::StatusOr<protocol::Report> report = protocol::ReportFromJson(*json);
    if (!report.ok()) return Annotate(report.status(), where);
    if (report->step.has_value()) {
      record.Add(*report->step);
    } else if (report->evaluation.has_value()) {
      record.Add(*report->evaluation);
    } else {
      return absl::InvalidArgumentError(absl::StrCat(where, ": neither a step nor an evaluation"));
    }
  }
  return record;
}

std::string RunRecord::MetricsCsv() const {
  std::map<int64_t, const protocol::EvaluationReport*> by_step;
  for (const protocol::EvaluationReport& evaluation : evaluations_)
    by_step[evaluation.step] = &evaluation;
  const auto evaluation_after = [&](int64_t step) {
    const auto found = by_step.find(step);
    return EvaluationColumns(found == by_step.end() ? nullptr : found->second);
  };

  std::string csv =
      "step,epoch,train_loss,learning_rate,grad_norm,tokens,supervised_tokens,step_seconds,tokens_"
      "per_second,valid_loss,"
      "valid_exact_match,valid_choice_accuracy\n";
  if (by_step.contains(0)) absl::StrAppend(&csv, "0,0,,,,,,,", evaluation_after(0), "\n");
  for (const protocol::StepReport& step : steps_) {
    const double tokens_per_second =
        step.step_seconds > 0 ? static_cast<double>(step.tokens) / step.step_seconds : 0;
    absl::StrAppend(&csv, step.step, ",", Shortest(step.epoch), ",", Shortest(step.train_loss), ",",
                    Shortest(step.learning_rate), ",", Shortest(step.grad_norm), ",");
    absl::StrAppend(&csv, step.tokens, ",", step.supervised_tokens, ",",
                    Shortest(step.step_seconds), ",", Shortest(tokens_per_second),
                    evaluation_after(step.step), "\n");
  }
  return csv;
}

protocol::ResultReport RunRecord::Result() const {
  protocol::ResultReport result;
  for (const protocol::StepReport& step : steps_) result.train_seconds += step.step_seconds;
  for (const protocol::EvaluationReport& evaluation : evaluations_)
    result.evaluation_seconds += evaluation.seconds;
  if (!steps_.empty()) {
    result.first_loss = steps_.front().train_loss;
    result.last_loss = steps_.back().train_loss;
  }
  if (!evaluations_.empty()) {
    result.before = evaluations_.front();
    result.after = evaluations_.back();
  }
  return result;
}

std::string RunRecord::ReportJson(const protocol::ResultReport& result) const {
  int64_t tokens = 0, supervised_tokens = 0;
  for (const protocol::StepReport& step : steps_) {
    tokens += step.tokens;
    supervised_tokens += step.supervised_tokens;
  }
  Json json;
  json["version"] = 1;
  json["steps"] = steps_.size();
  json["epochs"] = steps_.empty() ? 0.0 : steps_.back().epoch;
  json["tokens"] = tokens;
  json["supervised_tokens"] = supervised_tokens;
  json["first_loss"] = result.first_loss;
  json["last_loss"] = result.last_loss;
  json["train_seconds"] = result.train_seconds;
  json["evaluation_seconds"] = result.evaluation_seconds;
  json["before"] = result.before.has_value() ? ToJson(*result.before) : Json();
  json["after"] = result.after.has_value() ? ToJson(*result.after) : Json();
  if (result.merged_logit_difference)
    json["merged_logit_difference"] = *result.merged_logit_difference;
  return DumpJson(json) + "\n";
}

}  // namespace anneal::trainer
