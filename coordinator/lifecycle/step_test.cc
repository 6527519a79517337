#include "coordinator/lifecycle/step.h"

#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "coordinator/lifecycle/states.h"
#include "coordinator/lifecycle/testing/job_walk.h"
#include "google/rpc/code.pb.h"
#include "google/rpc/error_details.pb.h"

namespace anneal {
namespace {

using namespace ::anneal::testing;  // job_walk.h
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

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
          TaskReported{Rank(0), 1, CheckpointAt(3)},
          Paused(Rank(0)),
          Crashed(Rank(1)),
          OutOfMemory(Rank(1)),
          MoveRequired{internal::STOP_REASON_DRAIN, "worker w1 drains"},
          Tick{},
          CancelRequested{"c"},
          PauseRequested{"p"},
          ResumeRequested{"r", {}},
          FinishRequested{"f"},
          StacksRequested{}};
}

bool IsRequest(const LifecycleEvent& event) {
  return std::holds_alternative<CancelRequested>(event) ||
         std::holds_alternative<PauseRequested>(event) ||
         std::holds_alternative<ResumeRequested>(event) ||
         std::holds_alternative<FinishRequested>(event) ||
         std::holds_alternative<StacksRequested>(event);
}

TEST(StepTest, EveryStateIsDefinedForEveryEvent) {
  for (int s = v1::JOB_STATE_PENDING; s <= v1::JobState_MAX; ++s) {
    const auto state = static_cast<v1::JobState>(s);
    internal::JobRecord record = NewJob();
    record.mutable_prepare()->set_attempt(1);
    record.mutable_prepare()->set_worker("w1");
    record.mutable_prepared()->set_train_data("blobs/prepared/j/train.safetensors");
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
