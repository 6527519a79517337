#include "coordinator/lifecycle/step.h"

#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "coordinator/lifecycle/states.h"
#include "google/rpc/code.pb.h"
#include "google/rpc/error_details.pb.h"

namespace anneal {
namespace {

using ::anneal::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const absl::Time kNow = absl::FromUnixSeconds(1'700'000'000);
constexpr char kJob[] = "01hf00000000000000000000aa";

TaskKey Prepare(int64_t attempt) { return {kJob, TaskKey::Kind::kPrepare, attempt, 0}; }
TaskKey Rank(int32_t rank, int64_t generation = 1) {
  return {kJob, TaskKey::Kind::kTrain, generation, rank};
}

protocol::Report Prepared(int64_t errors = 0) {
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
protocol::Report Result() {
  protocol::Report report;
  report.result = protocol::ResultReport{
      .output_dir = "outputs/j", .primary = "adapter", .manifest_sha256 = "ab"};
  return report;
}
protocol::Report Evaluation(int64_t step, double loss) {
  protocol::Report report;
  report.evaluation = protocol::EvaluationReport{.step = step, .loss = loss};
  return report;
}
TaskEnded Killed(TaskKey task, std::string reason = "") {
  return {.task = task,
          .cause = "killed by signal 9 (SIGKILL)",
          .reason = reason,
          .log_tail = "last words"};
}

internal::JobRecord NewJob(bool hold = false) {
  internal::JobRecord record;
  record.set_id(kJob);
  record.set_hold_after_validation(hold);
  record.mutable_job()->set_name(std::string("jobs/") + kJob);
  v1::JobSpec& spec = *record.mutable_job()->mutable_resolved()->mutable_spec();
  spec.mutable_resources()->set_slots(2);
  spec.mutable_resources()->set_accelerator(v1::ResourceSpec::ACCELERATOR_CPU);
  spec.mutable_training()->set_logical_shards(4);
  return CreateJobRecord(record, kNow).record;
}

SlotsAssigned TwoSlots() { return {{{"w1", "s0", ""}, {"w2", "s0", ""}}}; }

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

Walk Running() {
  return Walk(NewJob())
      .Then(PrepareAssigned{"w1"})
      .Then(TaskReported{Prepare(1), 1, Prepared()})
      .Then(TwoSlots())
      .Then(TaskObserved{Rank(0), "train", "10.0.0.1:4000"})
      .Then(TaskObserved{Rank(1), "train", ""});
}

TEST(StepTest, AJobWalksFromSubmitToSuccess) {
  Walk walk = Running();
  EXPECT_EQ(walk.record.train().rendezvous(), "10.0.0.1:4000");
  EXPECT_EQ(DesiredTasks(walk.record).size(), 2u);
  walk.Then(TaskObserved{Rank(0), "export", ""}).Then(TaskReported{Rank(0), 9, Result()});
  EXPECT_THAT(walk.path,
              ElementsAre("PREPARING", "QUEUED", "STARTING", "RUNNING", "EXPORTING", "SUCCEEDED"));
  EXPECT_EQ(walk.record.job().output_model(), std::string("jobs/") + kJob + "/artifacts/adapter");
  EXPECT_EQ(walk.record.job().generation(), 1);
  EXPECT_TRUE(walk.record.job().has_finish_time());
  EXPECT_THAT(DesiredTasks(walk.record), IsEmpty());
}

TEST(StepTest, AQuickTrainerSkipsNoState) {
  Walk walk(NewJob());
  walk.Then(PrepareAssigned{"w1"}).Then(TaskReported{Prepare(1), 1, Prepared()}).Then(TwoSlots());
  walk.Then(TaskReported{Rank(0), 1, Result()});
  EXPECT_THAT(walk.path,
              ElementsAre("PREPARING", "QUEUED", "STARTING", "RUNNING", "EXPORTING", "SUCCEEDED"));
}

TEST(StepTest, AHeldJobWaitsForResume) {
  Walk walk(NewJob(/*hold=*/true));
  walk.Then(PrepareAssigned{"w1"}).Then(TaskReported{Prepare(1), 1, Prepared()});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_VALIDATED);
  EXPECT_THAT(Step(walk.record, ResumeRequested{"r", 3}, kNow),
              StatusIs(absl::StatusCode::kInvalidArgument));
  walk.Then(ResumeRequested{"r", 4});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(walk.record.job().resolved().spec().resources().slots(), 4);
  const int64_t version = walk.record.version();
  walk.Then(ResumeRequested{"r", 4});
  EXPECT_EQ(walk.record.version(), version) << "a repeated request changes nothing";
  EXPECT_THAT(Step(walk.record, ResumeRequested{"r2", {}}, kNow),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST(StepTest, BadDataFailsTheJobWithItsIssues) {
  Walk walk(NewJob());
  walk.Then(PrepareAssigned{"w1"}).Then(TaskReported{Prepare(1), 1, Prepared(/*errors=*/3)});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(walk.record.job().error().code(), google::rpc::INVALID_ARGUMENT);
  EXPECT_THAT(walk.record.job().error().message(),
              HasSubstr("3 errors in the data; the first: train.jsonl line 17, field "
                        "messages[2].content: must be text"));
  EXPECT_EQ(walk.record.job().data().issues_size(), 1);
}

TEST(StepTest, PrepareStartsAgainWhenItsWorkerIsLostButNotForEver) {
  Walk walk(NewJob());
  for (int attempt = 1; attempt < kMaxPrepareAttempts; ++attempt) {
    walk.Then(PrepareAssigned{"w1"}).Then(TaskLost{Prepare(attempt), "worker w1 is lost"});
    EXPECT_EQ(walk.state(), v1::JOB_STATE_PENDING);
  }
  walk.Then(PrepareAssigned{"w2"});
  walk.Then(TaskReported{Prepare(1), 5, Prepared()});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_PREPARING) << "an older attempt has no say";
  walk.Then(TaskLost{Prepare(kMaxPrepareAttempts), "worker w2 is lost"});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(walk.record.job().state_reason(), "WORKER_LOST");
}

TEST(StepTest, ADeadTrainerFailsTheJobWithRankWorkerCauseAndLog) {
  Walk walk = Running();
  walk.now = kNow + absl::Seconds(10);
  walk.Then(Killed(Rank(1)));
  const v1::Job& job = walk.record.job();
  EXPECT_EQ(job.state(), v1::JOB_STATE_FAILED);
  EXPECT_THAT(job.error().message(),
              HasSubstr("rank 1 on worker w2 ended (killed by signal 9 (SIGKILL))"));
  EXPECT_EQ(job.log_tail(), "last words");
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(job.error().details(0).UnpackTo(&info));
  EXPECT_EQ(info.domain(), "anneal");
  EXPECT_EQ(info.reason(), "TRAINER_DIED");
  EXPECT_EQ(info.metadata().at("rank"), "1");
  EXPECT_DOUBLE_EQ(job.usage().slot_seconds(), 20);
  EXPECT_THAT(DesiredTasks(walk.record), IsEmpty());
}

TEST(StepTest, AnEchoWaitsForTheRankThatDied) {
  Walk walk = Running();
  walk.Then(Killed(Rank(0), "COLLECTIVE_FAILED"));
  EXPECT_EQ(walk.state(), v1::JOB_STATE_RUNNING);
  walk.Then(Killed(Rank(1), "OUT_OF_MEMORY"));
  EXPECT_EQ(walk.record.job().state_reason(), "OUT_OF_MEMORY");
  EXPECT_THAT(walk.record.job().error().message(), HasSubstr("rank 1"));
}

TEST(StepTest, AnEchoWithoutAnExplanationFailsTheJobInTheEnd) {
  Walk walk = Running();
  walk.Then(Killed(Rank(0), "COLLECTIVE_FAILED")).Then(Tick{});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_RUNNING);
  walk.now += kBlameWindow;
  walk.Then(Tick{});
  EXPECT_EQ(walk.record.job().state_reason(), "COLLECTIVE_FAILED");

  Walk both = Running();
  both.Then(Killed(Rank(1), "COLLECTIVE_FAILED")).Then(Killed(Rank(0), "COLLECTIVE_FAILED"));
  EXPECT_THAT(both.record.job().error().message(), HasSubstr("rank 1"))
      << "the first to fail, once all have";
}

TEST(StepTest, ALostWorkerFailsTheJob) {
  Walk walk = Running();
  walk.Then(TaskLost{Rank(1), "worker w2 was not heard from for 10 s"});
  EXPECT_EQ(walk.record.job().error().code(), google::rpc::UNAVAILABLE);
  EXPECT_EQ(walk.record.job().state_reason(), "WORKER_LOST");
}

TEST(StepTest, ATrainerThatEndsWithoutAResultFailsTheJob) {
  Walk walk = Running();
  walk.Then(TaskEnded{.task = Rank(1)});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_RUNNING)
      << "rank 1 may end before rank 0 has written the result";
  walk.Then(TaskEnded{.task = Rank(0)});
  EXPECT_THAT(walk.record.job().error().message(), HasSubstr("it left no result"));
}

TEST(StepTest, LogEndsAreBoundedAndCutAtCharacters) {
  Walk walk = Running();
  TaskEnded ended = Killed(Rank(0));
  ended.log_tail = std::string(10, 'x');
  for (size_t i = 0; i < kMaxLogTailBytes; ++i) ended.log_tail += "\xC3\xA9";
  ended.log_tail += "y";
  walk.Then(ended);
  EXPECT_LE(walk.record.job().log_tail().size(), kMaxLogTailBytes);
  EXPECT_EQ(walk.record.job().log_tail()[0], '\xC3');
}

TEST(StepTest, CancellingWaitsForTheProcesses) {
  Walk walk = Running();
  walk.Then(CancelRequested{"c"});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_CANCELLING);
  EXPECT_THAT(DesiredTasks(walk.record), IsEmpty());
  EXPECT_EQ(OpenTasks(walk.record).size(), 2u);
  walk.Then(TaskReported{Rank(0), 50, Result()});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_CANCELLING) << "nothing is kept of a cancelled job";
  walk.Then(Killed(Rank(0))).Then(CancelRequested{"again"}).Then(TaskReleased{Rank(1)});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_CANCELLED);
  walk.Then(CancelRequested{"later"});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_CANCELLED);

  Walk waiting(NewJob());
  waiting.Then(CancelRequested{""});
  EXPECT_THAT(waiting.path, ElementsAre("CANCELLING", "CANCELLED"));
}

TEST(StepTest, FinishKeepsTheModel) {
  EXPECT_THAT(Step(NewJob(), FinishRequested{"f"}, kNow),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  Walk walk = Running();
  walk.Then(FinishRequested{"f"});
  EXPECT_TRUE(walk.record.finish_requested());
  EXPECT_EQ(walk.state(), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(DesiredTasks(walk.record).size(), 2u);
}

TEST(StepTest, RepeatedReportsAreAppliedOnce) {
  Walk walk = Running();
  walk.Then(TaskReported{Rank(0), 4, Evaluation(10, 1.5)});
  const int64_t sequence = walk.record.last_event_sequence();
  walk.Then(TaskReported{Rank(0), 4, Evaluation(10, 1.5)});
  walk.Then(TaskReported{Rank(0, /*generation=*/7), 9, Result()});
  EXPECT_EQ(walk.record.last_event_sequence(), sequence);
  EXPECT_EQ(walk.state(), v1::JOB_STATE_RUNNING);
}

TEST(StepTest, WaitingIsExplainedWithoutAnEvent) {
  internal::JobRecord record = NewJob();
  ANNEAL_ASSERT_OK_AND_ASSIGN(StepResult result,
                              Step(record, WaitExplained{"NO_WORKER", "no worker is there"}, kNow));
  EXPECT_TRUE(result.changed);
  EXPECT_THAT(result.events, IsEmpty());
  EXPECT_EQ(result.record.job().state_message(), "no worker is there");
  ANNEAL_ASSERT_OK_AND_ASSIGN(
      result, Step(result.record, WaitExplained{"NO_WORKER", "no worker is there"}, kNow));
  EXPECT_FALSE(result.changed);
}

// Every kind of event, with contents that fit the records of EveryState.
std::vector<LifecycleEvent> EveryEvent() {
  return {PrepareAssigned{"w1"},
          TwoSlots(),
          SlotsAssigned{},
          WaitExplained{"R", "m"},
          TaskObserved{Prepare(1), "tokenize", ""},
          TaskObserved{Rank(0), "train", "a:1"},
          TaskObserved{Rank(0), "export", ""},
          TaskObserved{Rank(77), "train", ""},
          TaskReported{Prepare(1), 1, Prepared()},
          TaskReported{Prepare(1), 1, Prepared(2)},
          TaskReported{Rank(0), 1, Result()},
          TaskReported{Rank(0), 1, Evaluation(1, 2)},
          TaskReported{Rank(1), 1, Result()},
          Killed(Prepare(1)),
          Killed(Rank(0)),
          Killed(Rank(0), "COLLECTIVE_FAILED"),
          Killed(Rank(-1)),
          TaskEnded{.task = Rank(0)},
          TaskLost{Prepare(1), "lost"},
          TaskLost{Rank(1), "lost"},
          TaskReleased{Prepare(1)},
          TaskReleased{Rank(1)},
          Tick{},
          CancelRequested{"c"},
          ResumeRequested{"r", {}},
          FinishRequested{"f"}};
}

bool IsRequest(const LifecycleEvent& event) {
  return std::holds_alternative<CancelRequested>(event) ||
         std::holds_alternative<ResumeRequested>(event) ||
         std::holds_alternative<FinishRequested>(event);
}

TEST(StepTest, EveryStateIsDefinedForEveryEvent) {
  for (int s = v1::JOB_STATE_PENDING; s <= v1::JobState_MAX; ++s) {
    const auto state = static_cast<v1::JobState>(s);
    internal::JobRecord record = NewJob();
    record.mutable_prepare()->set_attempt(1);
    record.mutable_prepare()->set_worker("w1");
    record.mutable_train()->set_generation(1);
    for (int rank = 0; rank < 2; ++rank) {
      record.mutable_train()->add_ranks()->set_rank(rank);
      record.mutable_train()->mutable_ranks(rank)->set_worker("w1");
    }
    record.mutable_job()->set_generation(1);
    record.mutable_job()->set_state(state);
    for (const LifecycleEvent& event : EveryEvent()) {
      SCOPED_TRACE(StateName(state) + " event " + std::to_string(event.index()));
      absl::StatusOr<StepResult> result = Step(record, event, kNow);
      if (!result.ok()) {
        EXPECT_TRUE(IsRequest(event));
        EXPECT_THAT(result, StatusIs(absl::StatusCode::kFailedPrecondition));
        EXPECT_EQ(ReasonOf(result.status()), "WRONG_STATE");
        continue;
      }
      v1::JobState at = state;
      int64_t sequence = record.last_event_sequence();
      for (const v1::JobEvent& e : result->events) {
        EXPECT_EQ(e.sequence(), ++sequence);
        if (!e.has_state_change()) continue;
        EXPECT_EQ(e.state_change().from(), at);
        EXPECT_TRUE(IsLegalTransition(at, e.state_change().to()));
        at = e.state_change().to();
      }
      EXPECT_EQ(result->record.job().state(), at);
      EXPECT_EQ(result->record.last_event_sequence(), sequence);
      EXPECT_EQ(result->record.version(), record.version() + (result->changed ? 1 : 0));
      if (!result->changed) {
        EXPECT_EQ(result->record.SerializeAsString(), record.SerializeAsString());
      }
      if (IsTerminal(state)) {
        EXPECT_FALSE(result->changed) << "terminal states never change";
      }
    }
  }
}

TEST(StatesTest, TerminalStatesLeadNowhereAndLiveOnesCanBeCancelled) {
  for (int from = v1::JOB_STATE_PENDING; from <= v1::JobState_MAX; ++from) {
    const auto state = static_cast<v1::JobState>(from);
    int ways = 0;
    for (int to = v1::JOB_STATE_PENDING; to <= v1::JobState_MAX; ++to) {
      ways += IsLegalTransition(state, static_cast<v1::JobState>(to));
    }
    EXPECT_EQ(ways == 0, IsTerminal(state)) << StateName(state);
    EXPECT_EQ(IsLegalTransition(state, v1::JOB_STATE_CANCELLING),
              !IsTerminal(state) && state != v1::JOB_STATE_CANCELLING);
    EXPECT_FALSE(IsLegalTransition(state, state));
  }
  EXPECT_FALSE(IsLegalTransition(v1::JOB_STATE_CANCELLING, v1::JOB_STATE_FAILED));
}

}  // namespace
}  // namespace anneal
