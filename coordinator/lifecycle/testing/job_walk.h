#pragma once
// A job led through its life by hand, one event after another.

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/lifecycle/states.h"
#include "coordinator/lifecycle/step.h"
#include "google/rpc/code.pb.h"
#include "gtest/gtest.h"

namespace anneal::testing {

inline const absl::Time kNow = absl::FromUnixSeconds(1'700'000'000);
inline constexpr char kJob[] = "01hf00000000000000000000aa";

inline TaskKey Prepare(int64_t attempt) { return {kJob, TaskKey::Kind::kPrepare, attempt, 0}; }
inline TaskKey Rank(int32_t rank, int64_t generation = 1) {
  return {kJob, TaskKey::Kind::kTrain, generation, rank};
}

inline protocol::Report Prepared(int64_t errors = 0) {
  protocol::PreparedReport prepared;
  prepared.train_data = "blobs/prepared/j/train.safetensors";
  prepared.train_rows = 10;
  prepared.error_count = errors;
  if (errors > 0) {
    protocol::IssueReport issue;
    issue.file = "train.jsonl";
    issue.line = 17;
    issue.field = "messages[2].content";
    issue.message = "must be text";
    prepared.issues = {issue};
  }
  protocol::Report report;
  report.prepared = prepared;
  return report;
}
inline protocol::Report Result() {
  protocol::Report report;
  report.result = protocol::ResultReport{
      .output_dir = "outputs/j", .primary = "adapter", .manifest_sha256 = "ab"};
  return report;
}
inline protocol::Report Evaluation(int64_t step, double loss) {
  protocol::Report report;
  report.evaluation = protocol::EvaluationReport{.step = step, .loss = loss};
  return report;
}
// By a signal from outside: an infrastructure failure.
inline TaskEnded Killed(TaskKey task, std::string reason = "") {
  return {.task = task,
          .cause = "killed by signal 9 (SIGKILL)",
          .reason = reason,
          .log_tail = "last words",
          .signal = 9};
}
inline TaskEnded Crashed(TaskKey task) {
  return {.task = task, .cause = "killed by signal 11 (SIGSEGV)", .reason = "KILLED", .signal = 11};
}
inline TaskEnded OutOfMemory(TaskKey task) {
  return {.task = task,
          .cause = "exit 1",
          .code = google::rpc::RESOURCE_EXHAUSTED,
          .reason = "OUT_OF_MEMORY",
          .message = "cannot allocate 3 GiB"};
}
inline TaskEnded Paused(TaskKey task) { return {.task = task, .reason = "PAUSED"}; }
inline protocol::Report CheckpointAt(int64_t step, int64_t generation = 1,
                                     std::optional<double> validation_loss = {}) {
  protocol::Report report;
  report.checkpoint = protocol::CheckpointReport{
      .step = step,
      .dir = absl::StrCat("jobs/", kJob, "/checkpoints/", step, "-g", generation),
      .manifest_sha256 = "ab",
      .bytes = 100,
      .validation_loss = validation_loss};
  return report;
}

inline internal::JobRecord NewJob(bool hold = false) {
  internal::JobRecord record;
  record.set_id(kJob);
  record.set_hold_after_validation(hold);
  record.mutable_job()->set_name(std::string("jobs/") + kJob);
  v1::JobSpec& spec = *record.mutable_job()->mutable_resolved()->mutable_spec();
  spec.mutable_resources()->set_slots(2);
  spec.mutable_resources()->set_accelerator(v1::ResourceSpec::ACCELERATOR_CPU);
  spec.mutable_training()->set_logical_shards(4);
  spec.mutable_checkpoint()->set_keep_last(2);
  spec.mutable_retry()->set_max_infrastructure_failures(3);
  spec.mutable_retry()->set_max_unknown_failures(3);
  return CreateJobRecord(record, kNow).record;
}

inline SlotsAssigned TwoSlots() { return {{{"w1", "s0", ""}, {"w2", "s0", ""}}}; }

// Steps that must succeed; collects the events.
class Walk {
 public:
  explicit Walk(internal::JobRecord record) : record(std::move(record)) {}

  Walk& Then(const LifecycleEvent& event) {
    absl::StatusOr<StepResult> result = Step(record, event, now);
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) return *this;
    record = result->record;
    for (const v1::JobEvent& e : result->events) {
      if (e.has_state_change()) path.push_back(StateName(e.state_change().to()));
    }
    return *this;
  }
  v1::JobState state() const { return record.job().state(); }

  internal::JobRecord record;
  absl::Time now = kNow;
  std::vector<std::string> path;
};

inline Walk Running() {
  return Walk(NewJob())
      .Then(PrepareAssigned{"w1"})
      .Then(TaskReported{Prepare(1), 1, Prepared()})
      .Then(TwoSlots())
      .Then(TaskObserved{Rank(0), "train", "10.0.0.1:4000"})
      .Then(TaskObserved{Rank(1), "train", ""});
}

}  // namespace anneal::testing
