#pragma once
// What happened in a run, as people and programs read it afterwards: metrics.csv and report.json.

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/protocol/messages.h"

namespace anneal::trainer {

// Grows by one line a step. Rank 0 keeps it. Guarded by its caller.
class RunRecord {
 public:
  void Add(const protocol::StepReport& step);
  void Add(const protocol::EvaluationReport& evaluation);

  // All of it, one Report a line, and back. INVALID_ARGUMENT names the line.
  std::string ToJsonLines() const;
  static absl::StatusOr<RunRecord> FromJsonLines(absl::string_view text);

  const std::vector<protocol::EvaluationReport>& evaluations() const { return evaluations_; }

  // One line per step, and one for step 0 if the model was evaluated before it was trained; columns
  // in docs/formats/outputs.md.
  std::string MetricsCsv() const;
  // The totals of the run: everything but the place and the hash of the outputs is filled.
  protocol::ResultReport Result() const;
  std::string ReportJson(const protocol::ResultReport& result) const;

 private:
  std::vector<protocol::StepReport> steps_;
  std::vector<protocol::EvaluationReport> evaluations_;
};

}  // namespace anneal::trainer
