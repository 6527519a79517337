// What goes wrong, and how a job goes on.

#include <limits>
#include <string>

#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "coordinator/lifecycle/proto_time.h"
#include "coordinator/lifecycle/testing/job_walk.h"
#include "google/rpc/error_details.pb.h"

namespace anneal {
namespace {

using namespace ::anneal::testing;  // job_walk.h
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::vector<int64_t> CheckpointSteps(const internal::JobRecord& record) {
  std::vector<int64_t> steps;
  for (const auto& checkpoint : record.checkpoints()) steps.push_back(checkpoint.step());
  return steps;
}

TEST(RecoveryTest, ADeadTrainerLeadsToANewGeneration) {
  Walk walk = Running();
  walk.now = kNow + absl::Seconds(10);
  walk.Then(Killed(Rank(1)));
  EXPECT_EQ(walk.state(), v1::JOB_STATE_RECOVERING);
  EXPECT_THAT(walk.record.job().state_message(),
              HasSubstr("rank 1 on worker w2 ended (killed by signal 9 (SIGKILL)); starts again"));
  EXPECT_EQ(walk.record.job().log_tail(), "last words");
  EXPECT_EQ(walk.record.job().failures().infrastructure(), 1);
  EXPECT_DOUBLE_EQ(walk.record.job().usage().slot_seconds(), 20);
  EXPECT_DOUBLE_EQ(walk.record.job().usage().redone_slot_seconds(), 20);
  EXPECT_THAT(DesiredTasks(walk.record), IsEmpty());
  walk.Then(TwoSlots());
  EXPECT_EQ(walk.state(), v1::JOB_STATE_STARTING);
  EXPECT_EQ(walk.record.job().generation(), 2);
  EXPECT_EQ(walk.record.job().attempts(), 2);
  // What is left of generation 1 has no say.
  walk.Then(TaskReported{Rank(0), 99, Result()}).Then(Killed(Rank(0)));
  EXPECT_EQ(walk.state(), v1::JOB_STATE_STARTING);
}

// The end of the attempt that this event ends.
v1::AttemptEnd EndBy(const Walk& walk, const LifecycleEvent& event) {
  const absl::StatusOr<StepResult> result = Step(walk.record, event, walk.now);
  EXPECT_TRUE(result.ok());
  for (const v1::JobEvent& e : result->events) {
    if (e.has_attempt_end()) return e.attempt_end();
  }
  ADD_FAILURE() << "no attempt has ended";
  return {};
}

TEST(RecoveryTest, TheEndOfAnAttemptSaysWhereTheNextOneBegins) {
  Walk walk = Running();
  v1::AttemptEnd end = EndBy(walk, Killed(Rank(1)));
  EXPECT_TRUE(end.has_resume_step());
  EXPECT_EQ(end.resume_step(), 0);
  walk.Then(TaskReported{Rank(0), 1, CheckpointAt(10)});
  EXPECT_EQ(EndBy(walk, Killed(Rank(1))).resume_step(), 10);
  // There is no next one: nothing is done again.
  EXPECT_FALSE(EndBy(walk, OutOfMemory(Rank(1))).has_resume_step());
}

TEST(RecoveryTest, AfterARestoreNoNumberIsGivenTwice) {
  // The catalog knows generation 1, and a later coordinator got as far as 3.
  Walk walk = Running();
  walk.Then(TaskReported{Rank(0), 5, CheckpointAt(4)});
  const int64_t version = walk.record.version();
  walk.Then(LostTaskFound{Rank(0, 1)});
  EXPECT_EQ(walk.record.version(), version) << "it is known";
  walk.Then(LostTaskFound{Rank(0, 3)});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_RECOVERING);
  EXPECT_EQ(walk.record.job().state_reason(), "RESTORED");
  EXPECT_THAT(walk.record.job().state_message(),
              HasSubstr("generation 3 was given after the backup from which the catalog was "
                        "restored, and does not count; goes on after step 4"));
  EXPECT_EQ(walk.record.job().failures().infrastructure(), 0) << "nobody's fault";
  EXPECT_THAT(DesiredTasks(walk.record), IsEmpty());
  const int64_t found = walk.record.version();
  walk.Then(LostTaskFound{Rank(1, 3)}).Then(LostTaskFound{Rank(1, 2)});
  EXPECT_EQ(walk.record.version(), found);
  walk.Then(LostTaskFound{Rank(0, std::numeric_limits<int64_t>::max())});
  EXPECT_EQ(walk.record.version(), found) << "no generation";
  walk.Then(TwoSlots());
  EXPECT_EQ(walk.state(), v1::JOB_STATE_STARTING);
  EXPECT_EQ(walk.record.job().generation(), 4);
  EXPECT_EQ(walk.record.train().generation(), 4);
}

TEST(RecoveryTest, AJobThatWaitsRemembersWhatWasLost) {
  Walk walk = Running();
  walk.Then(MoveRequired{internal::STOP_REASON_PREEMPTION, "moved"});
  walk.Then(Paused(Rank(0))).Then(Paused(Rank(1)));
  ASSERT_EQ(walk.state(), v1::JOB_STATE_QUEUED);
  walk.Then(LostTaskFound{Rank(0, 2)});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_QUEUED);
  walk.Then(TwoSlots());
  EXPECT_EQ(walk.record.job().generation(), 3);
}

TEST(RecoveryTest, APausingJobWhoseTrainersAreLostRests) {
  Walk walk = Running();
  walk.Then(PauseRequested{"p"});
  ASSERT_EQ(walk.state(), v1::JOB_STATE_PAUSING);
  walk.Then(LostTaskFound{Rank(0, 2)});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_PAUSED);
}

TEST(RecoveryTest, AfterARestorePrepareIsNumberedAnew) {
  Walk walk(NewJob());
  walk.Then(PrepareAssigned{"w1"});
  walk.Then(LostTaskFound{Prepare(3)});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_PENDING);
  EXPECT_EQ(walk.record.job().state_reason(), "RESTORED");
  walk.Then(PrepareAssigned{"w1"});
  EXPECT_EQ(walk.record.prepare().attempt(), 4);
  // The lost ones were no tries of this one.
  walk.Then(TaskLost{Prepare(4), "worker w1 is lost"});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_PENDING);
}

TEST(RecoveryTest, AResultThatCannotBePublishedIsMadeAgain) {
  Walk walk = Running();
  EXPECT_TRUE(Step(walk.record, TaskReported{Rank(0), 5, Result()}, kNow)->publishes_output);
  walk.Then(OutputLost{Rank(0), 5, "the storage root is away"});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_RECOVERING);
  EXPECT_EQ(walk.record.job().state_reason(), "OUTPUT_LOST");
  EXPECT_EQ(walk.record.job().failures().infrastructure(), 1);
  const int64_t version = walk.record.version();
  walk.Then(OutputLost{Rank(0), 5, "the storage root is away"});
  EXPECT_EQ(walk.record.version(), version) << "said twice";
  walk.Then(TwoSlots());
  const absl::StatusOr<StepResult> late =
      Step(walk.record, TaskReported{Rank(0), 6, Result()}, kNow);
  ANNEAL_ASSERT_OK(late);
  EXPECT_FALSE(late->publishes_output) << "of an older generation";
}

TEST(RecoveryTest, SlotsAreKeptForAWhile) {
  Walk walk = Running();
  walk.Then(Killed(Rank(1)));
  EXPECT_EQ(NextDeadline(walk.record), kNow + kKeepSlots);
  walk.now = kNow + kKeepSlots;
  walk.Then(Tick{});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_QUEUED);
  EXPECT_FALSE(walk.record.has_keep_slots_until());
  EXPECT_EQ(NextDeadline(walk.record), absl::InfiniteFuture());
}

TEST(RecoveryTest, EachCauseHasItsOwnBudget) {
  Walk walk = Running();
  for (int generation = 1; generation <= 3; ++generation) {
    walk.Then(Killed(Rank(1, generation))).Then(TwoSlots());
    EXPECT_EQ(walk.state(), v1::JOB_STATE_STARTING);
  }
  walk.Then(Crashed(Rank(0, 4)));
  EXPECT_EQ(walk.state(), v1::JOB_STATE_RECOVERING) << "another cause, another budget";
  walk.Then(TwoSlots()).Then(TaskLost{Rank(0, 5), "worker w1 was not heard from for 10 s"});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(walk.record.job().state_reason(), "WORKER_LOST");
  EXPECT_THAT(walk.record.job().error().message(),
              HasSubstr("failed 4 times for infrastructure causes, 3 are allowed"));
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(walk.record.job().error().details(0).UnpackTo(&info));
  EXPECT_EQ(info.domain(), "anneal");
  EXPECT_EQ(info.metadata().at("rank"), "0");
}

TEST(RecoveryTest, OutOfMemoryFailsAtOnceAndSaysWhatToChange) {
  Walk walk = Running();
  v1::ResolvedJob& resolved = *walk.record.mutable_job()->mutable_resolved();
  resolved.mutable_spec()->mutable_training()->set_microbatch_tokens(8192);
  resolved.mutable_memory_plan()->set_total_bytes(int64_t{2} << 30);
  resolved.mutable_memory_plan()->set_available_bytes(int64_t{4} << 30);
  walk.Then(OutOfMemory(Rank(1)));
  EXPECT_EQ(walk.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(walk.record.job().state_reason(), "OUT_OF_MEMORY");
  EXPECT_THAT(walk.record.job().error().message(),
              AllOf(HasSubstr("cannot allocate 3 GiB"),
                    HasSubstr("planned were 2.00 GiB of 4.00 GiB a slot"),
                    HasSubstr("training.microbatch_tokens 8192")));
  EXPECT_EQ(walk.record.job().failures().user(), 1);
}

TEST(RecoveryTest, TheSameStepFailingThreeTimesEndsTheJob) {
  Walk walk = Running();
  for (int generation = 1; generation <= 2; ++generation) {
    walk.record.mutable_job()->mutable_progress()->set_step(7);
    walk.Then(Crashed(Rank(1, generation))).Then(TwoSlots());
  }
  Walk elsewhere = walk;
  walk.record.mutable_job()->mutable_progress()->set_step(7);
  walk.Then(Crashed(Rank(1, 3)));
  EXPECT_EQ(walk.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(walk.record.job().state_reason(), "SAME_STEP_FAILED");
  EXPECT_THAT(walk.record.job().error().message(), HasSubstr("step 8 has failed 3 times"));
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(walk.record.job().error().details(0).UnpackTo(&info));
  EXPECT_EQ(info.metadata().at("cause"), "KILLED");
  elsewhere.record.mutable_job()->mutable_progress()->set_step(8);
  elsewhere.Then(Crashed(Rank(1, 3)));
  EXPECT_EQ(elsewhere.state(), v1::JOB_STATE_RECOVERING);
}

TEST(RecoveryTest, AttemptsThatGetNowhereWaitLongerAndLonger) {
  Walk walk = Running();
  auto& retry = *walk.record.mutable_job()->mutable_resolved()->mutable_spec()->mutable_retry();
  retry.set_max_infrastructure_failures(1000);
  std::vector<int64_t> waits;
  for (int generation = 1; generation <= 14; ++generation) {
    walk.Then(Killed(Rank(0, generation)));
    waits.push_back(absl::ToInt64Seconds(TimeOf(walk.record.retry().not_before()) - walk.now));
    walk.Then(TwoSlots());
  }
  EXPECT_THAT(waits, ElementsAre(0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60));
  walk.record.mutable_job()->mutable_progress()->set_step(3);
  walk.Then(Killed(Rank(0, 15)));
  EXPECT_EQ(TimeOf(walk.record.retry().not_before()), walk.now) << "it had finished a step";
}

TEST(RecoveryTest, AnEchoWaitsForTheRankThatDied) {
  Walk walk = Running();
  walk.Then(Killed(Rank(0), "COLLECTIVE_FAILED"));
  EXPECT_EQ(walk.state(), v1::JOB_STATE_RUNNING);
  walk.Then(OutOfMemory(Rank(1)));
  EXPECT_EQ(walk.record.job().state_reason(), "OUT_OF_MEMORY");
  EXPECT_THAT(walk.record.job().error().message(), HasSubstr("rank 1"));
}

TEST(RecoveryTest, AHungRankEndsTheAttemptOnce) {
  Walk walk = Running();
  walk.Then(TaskHung{Rank(1), "rank 1 hangs in reduce of step 3"});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_RECOVERING);
  EXPECT_EQ(walk.record.job().state_reason(), "HUNG");
  EXPECT_THAT(walk.record.job().state_message(), HasSubstr("rank 1 on worker w2"));
  EXPECT_THAT(DesiredTasks(walk.record), IsEmpty());
  // Said again until the processes are gone.
  walk.Then(TaskHung{Rank(1), "again"}).Then(TwoSlots()).Then(TaskHung{Rank(1), "again"});
  EXPECT_EQ(walk.record.job().failures().infrastructure(), 1);
  EXPECT_EQ(walk.state(), v1::JOB_STATE_STARTING);
}

TEST(RecoveryTest, AnEchoWithoutAnExplanationEndsTheAttempt) {
  Walk walk = Running();
  walk.Then(Killed(Rank(0), "COLLECTIVE_FAILED")).Then(Tick{});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_RUNNING);
  walk.now += kBlameWindow;
  EXPECT_EQ(NextDeadline(walk.record), walk.now);
  walk.Then(Tick{});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_RECOVERING);
  EXPECT_EQ(walk.record.job().state_reason(), "COLLECTIVE_FAILED");

  Walk both = Running();
  both.Then(Killed(Rank(1), "COLLECTIVE_FAILED")).Then(Killed(Rank(0), "COLLECTIVE_FAILED"));
  EXPECT_THAT(both.record.job().state_message(), HasSubstr("rank 1"))
      << "the first to fail, once all have";
}

TEST(RecoveryTest, ATrainerThatEndsWithoutAResultIsAFailure) {
  Walk walk = Running();
  walk.Then(TaskEnded{.task = Rank(1)});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_RUNNING)
      << "rank 1 may end before rank 0 has written the result";
  walk.Then(TaskEnded{.task = Rank(0)});
  EXPECT_THAT(walk.record.job().state_message(), HasSubstr("it left no result"));
}

TEST(RecoveryTest, PrepareStartsAgainWhenItIsKilled) {
  Walk walk(NewJob());
  walk.Then(PrepareAssigned{"w1"}).Then(Killed(Prepare(1)));
  EXPECT_EQ(walk.state(), v1::JOB_STATE_PENDING);
  walk.Then(PrepareAssigned{"w1"}).Then(Crashed(Prepare(2)));
  EXPECT_EQ(walk.state(), v1::JOB_STATE_FAILED);
}

TEST(CheckpointTest, OnlyTheNewestGenerationCommits) {
  Walk walk = Running();
  walk.Then(TaskReported{Rank(0), 1, CheckpointAt(10)});
  EXPECT_EQ(walk.record.job().checkpoint_step(), 10);
  walk.Then(Killed(Rank(1)));
  EXPECT_THAT(walk.record.job().state_message(), HasSubstr("goes on after step 10"));
  walk.Then(TaskReported{Rank(0), 2, CheckpointAt(20)});
  EXPECT_THAT(CheckpointSteps(walk.record), ElementsAre(10)) << "the attempt is over";
  walk.Then(TwoSlots()).Then(TaskReported{Rank(0), 3, CheckpointAt(30)});
  EXPECT_THAT(CheckpointSteps(walk.record), ElementsAre(10)) << "another generation runs";
  walk.Then(TaskReported{Rank(0, 2), 1, CheckpointAt(30, /*generation=*/1)});
  EXPECT_THAT(CheckpointSteps(walk.record), ElementsAre(10)) << "not its own folder";
  walk.Then(TaskReported{Rank(0, 2), 2, CheckpointAt(20, 2)});
  EXPECT_THAT(CheckpointSteps(walk.record), ElementsAre(20, 10));
}

TEST(CheckpointTest, TheNewestAndTheBestAreKept) {
  Walk walk = Running();
  int64_t report = 0;
  for (const auto& [step, loss] : std::vector<std::pair<int64_t, double>>{
           {10, 2.0}, {20, 1.5}, {30, 1.7}, {40, 1.6}, {50, 1.5}}) {
    walk.Then(TaskReported{Rank(0), ++report, CheckpointAt(step, 1, loss)});
  }
  EXPECT_THAT(CheckpointSteps(walk.record), ElementsAre(50, 40));
  walk.Then(TaskReported{Rank(0), ++report, CheckpointAt(60, 1, 9.0)});
  walk.Then(TaskReported{Rank(0), ++report, CheckpointAt(70, 1)});
  EXPECT_THAT(CheckpointSteps(walk.record), ElementsAre(70, 60, 50));
}

TEST(CheckpointTest, DamagedOnesAreSetAsideAndTheStepsToRedoAreSaid) {
  Walk walk = Running();
  walk.Then(TaskReported{Rank(0), 1, CheckpointAt(10)})
      .Then(TaskReported{Rank(0), 2, CheckpointAt(20)})
      .Then(Killed(Rank(1)))
      .Then(TwoSlots());
  protocol::Report resumed;
  resumed.resumed = protocol::ResumedReport{
      .step = 10,
      .dir = walk.record.checkpoints(1).dir(),
      .damaged = {{walk.record.checkpoints(0).dir(), "rank0.safetensors: wrong hash"}}};
  ANNEAL_ASSERT_OK_AND_ASSIGN(StepResult result,
                              Step(walk.record, TaskReported{Rank(0, 2), 1, resumed}, walk.now));
  EXPECT_THAT(CheckpointSteps(result.record), ElementsAre(10));
  EXPECT_EQ(result.record.train().first_step(), 10);
  EXPECT_THAT(result.events[0].message(),
              AllOf(HasSubstr("after step 20 is damaged"), HasSubstr("10 steps are done again")));
  EXPECT_EQ(result.events[0].level(), v1::JobEvent::LEVEL_WARNING);
}

TEST(PauseTest, ARunningJobStopsAtAStepAndGoesOnWithOtherSlots) {
  Walk walk = Running();
  walk.Then(PauseRequested{"p"});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_PAUSING);
  EXPECT_EQ(walk.record.stop_reason(), internal::STOP_REASON_PAUSE);
  EXPECT_EQ(DesiredTasks(walk.record).size(), 2u) << "they are told, not killed";
  walk.Then(TaskReported{Rank(0), 5, CheckpointAt(12)}).Then(Paused(Rank(0)));
  EXPECT_EQ(walk.state(), v1::JOB_STATE_PAUSING);
  walk.Then(Paused(Rank(1)));
  EXPECT_EQ(walk.state(), v1::JOB_STATE_PAUSED);
  EXPECT_THAT(walk.record.job().state_message(), HasSubstr("goes on after step 12"));
  EXPECT_EQ(walk.record.job().failures().infrastructure(), 0);
  walk.Then(ResumeRequested{"r", 4});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(walk.record.job().resolved().spec().resources().max_slots(), 4);
}

TEST(PauseTest, WhatHasNothingToSaveIsPausedAtOnce) {
  Walk pending(NewJob());
  pending.Then(PauseRequested{"p"});
  EXPECT_EQ(pending.state(), v1::JOB_STATE_PAUSED);
  pending.Then(ResumeRequested{"r", {}});
  EXPECT_EQ(pending.state(), v1::JOB_STATE_PENDING) << "its data is not prepared";

  Walk preparing(NewJob());
  preparing.Then(PrepareAssigned{"w1"}).Then(PauseRequested{"p"});
  EXPECT_EQ(preparing.state(), v1::JOB_STATE_PAUSED);
  EXPECT_THAT(DesiredTasks(preparing.record), IsEmpty());

  Walk recovering = Running();
  recovering.Then(Killed(Rank(1))).Then(PauseRequested{"p"});
  EXPECT_EQ(recovering.state(), v1::JOB_STATE_PAUSED);
  EXPECT_EQ(NextDeadline(recovering.record), absl::InfiniteFuture());
}

TEST(PauseTest, ADeathWhilePausingCostsStepsButNotThePause) {
  Walk walk = Running();
  walk.Then(TaskReported{Rank(0), 1, CheckpointAt(10)}).Then(PauseRequested{"p"});
  walk.Then(Killed(Rank(1)));
  EXPECT_EQ(walk.state(), v1::JOB_STATE_PAUSED);
  EXPECT_THAT(DesiredTasks(walk.record), IsEmpty());
}

TEST(PauseTest, ATrainerThatReachesNoStepIsStoppedByForce) {
  Walk walk = Running();
  walk.Then(PauseRequested{"p"});
  walk.now = NextDeadline(walk.record);
  walk.Then(Tick{});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_PAUSED);
}

TEST(PauseTest, AJobThatHadItsLastStepIsExportedNotPaused) {
  Walk walk = Running();
  walk.Then(PauseRequested{"p"}).Then(TaskReported{Rank(0), 1, Result()});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_SUCCEEDED);
}

TEST(MoveTest, ADrainedJobQueuesAgainInItsOldPlace) {
  Walk walk = Running();
  const absl::Time queued = TimeOf(walk.record.queue_time());
  walk.now = kNow + absl::Hours(1);
  walk.Then(MoveRequired{internal::STOP_REASON_DRAIN, "worker w1 drains"});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_PREEMPTING);
  walk.Then(Paused(Rank(1))).Then(Paused(Rank(0)));
  EXPECT_EQ(walk.state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(TimeOf(walk.record.queue_time()), queued);
  EXPECT_EQ(walk.record.job().failures().ShortDebugString(), "");
}

TEST(MoveTest, AWorkerThatDrainsByItselfMovesTheJobToo) {
  Walk walk = Running();
  walk.Then(TaskReported{Rank(0), 5, CheckpointAt(12)}).Then(Paused(Rank(1)));
  EXPECT_EQ(walk.state(), v1::JOB_STATE_PREEMPTING);
  walk.Then(Paused(Rank(0)));
  EXPECT_EQ(walk.state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(walk.record.job().failures().infrastructure(), 0);
}

TEST(MoveTest, PausingAJobThatMovesChangesOnlyWhereItGoes) {
  Walk walk = Running();
  walk.Then(MoveRequired{internal::STOP_REASON_PREEMPTION, "jobs/x goes first"});
  EXPECT_THAT(Step(walk.record, FinishRequested{"f"}, walk.now), Not(IsOk()));
  Walk pausing = walk;
  walk.Then(Paused(Rank(1)));
  walk.Then(TaskLost{Rank(0), "worker w1 was not heard from"});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_QUEUED);
  pausing.Then(PauseRequested{"p"}).Then(Paused(Rank(0))).Then(Paused(Rank(1)));
  EXPECT_EQ(pausing.state(), v1::JOB_STATE_PAUSED);
}

TEST(LimitTest, ReachingOnePausesWithACheckpointAndResumingCountsAnew) {
  Walk walk = Running();
  walk.record.mutable_job()
      ->mutable_resolved()
      ->mutable_spec()
      ->mutable_limits()
      ->set_max_slot_seconds(100);
  EXPECT_EQ(NextDeadline(walk.record), kNow + absl::Seconds(50));
  walk.now = kNow + absl::Seconds(49);
  walk.Then(Tick{});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_RUNNING);
  walk.now = kNow + absl::Seconds(50);
  walk.Then(Tick{});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_PAUSING);
  walk.Then(Paused(Rank(0))).Then(Paused(Rank(1)));
  EXPECT_EQ(walk.record.job().state_reason(), "LIMIT_REACHED");
  walk.Then(ResumeRequested{"r", {}}).Then(TwoSlots());
  walk.Then(TaskObserved{Rank(0, 2), "train", "a:1"});
  EXPECT_EQ(NextDeadline(walk.record), walk.now + absl::Seconds(50));
}

TEST(LimitTest, HoursCountOverAttempts) {
  Walk walk = Running();
  walk.record.mutable_job()->mutable_resolved()->mutable_spec()->mutable_limits()->set_max_hours(1);
  walk.now = kNow + absl::Minutes(40);
  walk.Then(Killed(Rank(1)));
  walk.now += absl::Seconds(30);
  walk.Then(TwoSlots()).Then(TaskObserved{Rank(0, 2), "train", "a:1"});
  EXPECT_EQ(NextDeadline(walk.record), walk.now + absl::Minutes(20)) << "waiting is not counted";
}

TEST(FinishTest, APausedJobWithACheckpointCanBeFinished) {
  Walk walk = Running();
  walk.Then(PauseRequested{"p"}).Then(TaskReported{Rank(0), 5, CheckpointAt(12)});
  walk.Then(Paused(Rank(0))).Then(Paused(Rank(1))).Then(FinishRequested{"f"});
  EXPECT_EQ(walk.state(), v1::JOB_STATE_QUEUED);
  EXPECT_TRUE(walk.record.finish_requested());
}

}  // namespace
}  // namespace anneal
