#include "coordinator/catalog/job_history.h"

#include <utility>

#include "common/base/status.h"
#include "coordinator/catalog/schema.h"

namespace anneal {
namespace {

template <typename Message>
absl::Status ParseColumn(const Statement& statement, int column, Message* message) {
  const absl::string_view bytes = statement.Bytes(column);
  if (message->ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    return absl::OkStatus();
  return absl::DataLossError("a row of the job's history cannot be read");
}

}  // namespace

absl::StatusOr<std::unique_ptr<JobHistory>> JobHistory::Open(const std::string& data_dir) {
  ANNEAL_ASSIGN_OR_RETURN(Database catalog, OpenCatalogDatabase(data_dir));
  ANNEAL_ASSIGN_OR_RETURN(Database metrics, OpenMetricsDatabase(data_dir));
  return std::unique_ptr<JobHistory>(new JobHistory(std::move(catalog), std::move(metrics)));
}

absl::StatusOr<std::vector<v1::JobEvent>> JobHistory::ReadEvents(absl::string_view job,
                                                                 int64_t after_sequence,
                                                                 int limit) {
  absl::MutexLock lock(&mu_);
  ANNEAL_ASSIGN_OR_RETURN(
      Statement statement,
      catalog_.Prepare(
          "SELECT event FROM job_events WHERE job = ? AND sequence > ? ORDER BY sequence LIMIT ?"));
  statement.Bind(job).Bind(after_sequence).Bind(static_cast<int64_t>(limit));
  std::vector<v1::JobEvent> events;
  while (true) {
    ANNEAL_ASSIGN_OR_RETURN(const bool found, statement.Step());
    if (!found) return events;
    ANNEAL_RETURN_IF_ERROR(ParseColumn(statement, 0, &events.emplace_back()));
  }
}

absl::StatusOr<std::vector<v1::StepMetrics>> JobHistory::ReadSteps(absl::string_view job,
                                                                   int64_t after_step, int limit) {
  absl::MutexLock lock(&mu_);
  ANNEAL_ASSIGN_OR_RETURN(
      Statement statement,
      metrics_.Prepare("SELECT steps.metrics, evaluations.point FROM steps LEFT JOIN evaluations "
                       "USING (job, step) WHERE job = ? AND step > ? ORDER BY step LIMIT ?"));
  statement.Bind(job).Bind(after_step).Bind(static_cast<int64_t>(limit));
  std::vector<v1::StepMetrics> steps;
  while (true) {
    ANNEAL_ASSIGN_OR_RETURN(const bool found, statement.Step());
    if (!found) return steps;
    v1::StepMetrics& step = steps.emplace_back();
    ANNEAL_RETURN_IF_ERROR(ParseColumn(statement, 0, &step));
    if (!statement.IsNull(1))
      ANNEAL_RETURN_IF_ERROR(ParseColumn(statement, 1, step.mutable_evaluation()));
  }
}

absl::StatusOr<std::optional<v1::EvaluationPoint>> JobHistory::ReadFirstEvaluation(
    absl::string_view job) {
  absl::MutexLock lock(&mu_);
  ANNEAL_ASSIGN_OR_RETURN(
      Statement statement,
      metrics_.Prepare("SELECT point FROM evaluations WHERE job = ? AND step = 0"));
  ANNEAL_ASSIGN_OR_RETURN(const bool found, statement.Bind(job).Step());
  if (!found) return std::optional<v1::EvaluationPoint>();
  v1::EvaluationPoint point;
  ANNEAL_RETURN_IF_ERROR(ParseColumn(statement, 0, &point));
  return std::optional<v1::EvaluationPoint>(std::move(point));
}

absl::StatusOr<std::unique_ptr<StepMetricsWriter>> StepMetricsWriter::Open(
    const std::string& data_dir) {
  ANNEAL_ASSIGN_OR_RETURN(Database database, OpenMetricsDatabase(data_dir));
  return std::unique_ptr<StepMetricsWriter>(new StepMetricsWriter(std::move(database)));
}

void StepMetricsWriter::AddStep(absl::string_view job, v1::StepMetrics metrics) {
  steps_.push_back({std::string(job), std::move(metrics)});
}

void StepMetricsWriter::AddEvaluation(absl::string_view job, int64_t generation,
                                      v1::EvaluationPoint point) {
  evaluations_.push_back({std::string(job), generation, std::move(point)});
}

absl::Status StepMetricsWriter::Flush() {
  if (!has_unflushed()) return absl::OkStatus();
  const std::vector<Step> steps = std::exchange(steps_, {});
  const std::vector<Evaluation> evaluations = std::exchange(evaluations_, {});
  ANNEAL_ASSIGN_OR_RETURN(Transaction transaction, Transaction::Begin(database_));
  {
    ANNEAL_ASSIGN_OR_RETURN(
        Statement step,
        database_.Prepare(
            "INSERT INTO steps VALUES (?, ?, ?, ?) ON CONFLICT (job, step) DO UPDATE SET "
            "generation = excluded.generation, metrics = excluded.metrics "
            "WHERE excluded.generation >= generation"));
    for (const Step& row : steps) {
      ANNEAL_RETURN_IF_ERROR(step.Bind(row.job)
                                 .Bind(row.metrics.step())
                                 .Bind(row.metrics.generation())
                                 .BindBlob(row.metrics.SerializeAsString())
                                 .Run());
      step.Reset();
    }
    ANNEAL_ASSIGN_OR_RETURN(
        Statement evaluation,
        database_.Prepare(
            "INSERT INTO evaluations VALUES (?, ?, ?, ?) ON CONFLICT (job, step) DO UPDATE SET "
            "generation = excluded.generation, point = excluded.point WHERE excluded.generation >= "
            "generation"));
    for (const Evaluation& row : evaluations) {
      ANNEAL_RETURN_IF_ERROR(evaluation.Bind(row.job)
                                 .Bind(row.point.step())
                                 .Bind(row.generation)
                                 .BindBlob(row.point.SerializeAsString())
                                 .Run());
      evaluation.Reset();
    }
  }
  return transaction.Commit();
}

absl::Status StepMetricsWriter::DeleteJob(absl::string_view job) {
  for (const char* sql :
       {"DELETE FROM steps WHERE job = ?", "DELETE FROM evaluations WHERE job = ?"}) {
    ANNEAL_ASSIGN_OR_RETURN(Statement statement, database_.Prepare(sql));
    ANNEAL_RETURN_IF_ERROR(statement.Bind(job).Run());
  }
  return absl::OkStatus();
}

absl::StatusOr<StepMetricsWriter::Totals> StepMetricsWriter::ReadTotals(absl::string_view job) {
  ANNEAL_ASSIGN_OR_RETURN(
      Statement statement,
      database_.Prepare("SELECT metrics FROM steps WHERE job = ? ORDER BY step"));
  statement.Bind(job);
  Totals totals;
  while (true) {
    ANNEAL_ASSIGN_OR_RETURN(const bool found, statement.Step());
    if (!found) return totals;
    ANNEAL_RETURN_IF_ERROR(ParseColumn(statement, 0, &totals.last_step));
    totals.tokens += totals.last_step.tokens();
    totals.supervised_tokens += totals.last_step.supervised_tokens();
  }
}

}  // namespace anneal
