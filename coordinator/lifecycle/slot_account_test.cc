#include "coordinator/lifecycle/slot_account.h"

#include <string>

#include "common/base/status_matchers.h"
#include "coordinator/lifecycle/proto_time.h"
#include "coordinator/lifecycle/testing/job_walk.h"

namespace anneal {
namespace {

using namespace ::anneal::testing;  // job_walk.h

// A walk that takes its time, and whose bookings are added up as the control loop adds them.
class Life {
 public:
  explicit Life(absl::Time start = kNow) : now(start) {
    Then(PrepareAssigned{"w1"}).Then(TaskReported{Prepare(1), 1, Prepared()});
  }

  Life& After(absl::Duration passed, const LifecycleEvent& event) {
    now += passed;
    return Then(event);
  }
  Life& Then(const LifecycleEvent& event) {
    const absl::StatusOr<StepResult> result = Step(record_, event, now);
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) return *this;
    if (!result->changed) {
      EXPECT_TRUE(result->slot_time.empty());
      EXPECT_EQ(result->record.SerializeAsString(), record_.SerializeAsString());
    }
    record_ = result->record;
    Take(result->slot_time);
    Check();
    return *this;
  }
  // From QUEUED or RECOVERING: ten seconds of starting on two slots.
  Life& Start() {
    Then(TwoSlots());
    const int64_t generation = record_.train().generation();
    return After(absl::Seconds(10), TaskObserved{Rank(0, generation), "train", "a:1"});
  }
  Life& Reach(int64_t step) {
    record_.mutable_job()->mutable_progress()->set_step(step);
    return *this;
  }
  Life& Count() {
    SlotTimeByDay slot_time;
    CountSlotTime(now, &record_, &slot_time);
    ShowSlotTime(now, &record_);
    Take(slot_time);
    Check();
    return *this;
  }
  v1::JobState state() const { return record_.job().state(); }
  const v1::JobUsage& usage() const { return record_.job().usage(); }
  internal::JobRecord& record() { return record_; }
  // Of all days.
  SlotTime sum() const {
    SlotTime sum;
    for (const auto& [day, time] : rows) {
      sum.useful += time.useful;
      sum.redone += time.redone;
      sum.lost += time.lost;
      sum.idle += time.idle;
    }
    return sum;
  }
  void Expect(double useful, double redone, double lost, double idle) const {
    EXPECT_NEAR(sum().useful, useful, 1e-6) << "useful";
    EXPECT_NEAR(sum().redone, redone, 1e-6) << "redone";
    EXPECT_NEAR(sum().lost, lost, 1e-6) << "lost";
    EXPECT_NEAR(sum().idle, idle, 1e-6) << "idle";
  }

  absl::Time now;
  SlotTimeByDay rows;

 private:
  void Take(const SlotTimeByDay& slot_time) {
    for (const auto& [day, time] : slot_time) {
      rows[day].useful += time.useful;
      rows[day].redone += time.redone;
      rows[day].lost += time.lost;
      rows[day].idle += time.idle;
    }
  }
  // The API shows what is booked, and no day has less than nothing.
  void Check() const {
    const SlotTime all = sum();
    EXPECT_NEAR(usage().slot_seconds(), all.useful + all.redone + all.lost + all.idle, 1e-6);
    EXPECT_NEAR(usage().redone_slot_seconds(), all.redone, 1e-6);
    EXPECT_NEAR(usage().lost_slot_seconds(), all.lost, 1e-6);
    EXPECT_NEAR(usage().idle_slot_seconds(), all.idle, 1e-6);
    for (const auto& [day, time] : rows) {
      EXPECT_GE(time.useful, -1e-6) << day;
      EXPECT_GE(time.redone, -1e-6) << day;
      EXPECT_GE(time.lost, -1e-6) << day;
      EXPECT_GE(time.idle, -1e-6) << day;
    }
  }

  internal::JobRecord record_ = NewJob();
};

TEST(SlotAccountTest, StartingIsIdleAndTrainingAndExportAreUseful) {
  Life life;
  life.After(absl::Hours(1), Tick{});
  life.Start();
  life.Expect(0, 0, 0, 20);
  life.After(absl::Seconds(100), TaskObserved{Rank(0), "export", "a:1"});
  life.After(absl::Seconds(5), TaskReported{Rank(0), 1, Result()});
  EXPECT_EQ(life.state(), v1::JOB_STATE_SUCCEEDED);
  life.Expect(210, 0, 0, 20);
  life.After(absl::Hours(1), Killed(Rank(1)));
  life.Expect(210, 0, 0, 20);
}

TEST(SlotAccountTest, ALiveAttemptIsCountedAndShownBeforeItEnds) {
  Life life;
  life.Start();
  life.now += absl::Seconds(30);
  internal::JobRecord shown = life.record();
  ShowSlotTime(life.now, &shown);
  EXPECT_DOUBLE_EQ(shown.job().usage().slot_seconds(), 80);
  EXPECT_DOUBLE_EQ(shown.job().usage().idle_slot_seconds(), 20);
  life.Count();
  life.Expect(60, 0, 0, 20);
  life.Count();
  life.Expect(60, 0, 0, 20);
  life.now += absl::Seconds(30);
  life.Count();
  life.Expect(120, 0, 0, 20);
}

TEST(SlotAccountTest, WhatComesAfterTheCheckpointIsRedoneAndKeptSlotsAreIdle) {
  Life life;
  life.Start();
  life.After(absl::Seconds(50), TaskReported{Rank(0), 1, CheckpointAt(5)}).Reach(8);
  life.After(absl::Seconds(20), TaskLost{Rank(1), "worker w2 was not heard from"});
  EXPECT_EQ(life.state(), v1::JOB_STATE_RECOVERING);
  life.Expect(100, 40, 0, 20);
  // One slot went with its worker: the other is kept.
  life.After(absl::Seconds(15), TaskLost{Rank(0), "said late"});
  EXPECT_EQ(HeldSlots(life.record()), 0) << "and that one has gone too";
  life.Expect(100, 40, 0, 35);
  life.now += absl::Seconds(15);
  life.Start();
  life.Expect(100, 40, 0, 55);
  life.After(absl::Seconds(60), TaskReported{Rank(0, 2), 1, Result()});
  life.Expect(220, 40, 0, 55);
}

TEST(SlotAccountTest, ACheckpointHoldsWhatThereWasWhenItsWritingBegan) {
  Life life;
  life.Start();
  protocol::Report report = CheckpointAt(5);
  report.checkpoint->write_seconds = 4;
  life.After(absl::Seconds(50), TaskReported{Rank(0), 1, report}).Reach(6);
  life.Then(Killed(Rank(1)));
  life.Expect(92, 8, 0, 20);
}

TEST(SlotAccountTest, WithoutACheckpointAllTrainingIsRedone) {
  Life life;
  life.Start();
  life.After(absl::Seconds(30), Killed(Rank(1)));
  life.Expect(0, 60, 0, 20);
  // The slots are kept for a minute, then they are not the job's any more.
  life.After(kKeepSlots, Tick{});
  EXPECT_EQ(life.state(), v1::JOB_STATE_QUEUED);
  life.After(absl::Hours(1), Tick{});
  life.Expect(0, 60, 0, 20 + 120);
}

TEST(SlotAccountTest, AJobThatFailsHasLostItsTrainingAndRedoneNothing) {
  Life life;
  life.Start();
  life.After(absl::Seconds(50), TaskReported{Rank(0), 1, CheckpointAt(5)}).Reach(8);
  life.After(absl::Seconds(20), OutOfMemory(Rank(1)));
  EXPECT_EQ(life.state(), v1::JOB_STATE_FAILED);
  life.Expect(0, 0, 140, 20);
}

TEST(SlotAccountTest, ACancelledJobHasLostItsTrainingAndHoldsSlotsUntilItsProcessesAreGone) {
  Life life;
  life.Start();
  life.After(absl::Seconds(50), CancelRequested{"c"});
  life.Expect(0, 0, 100, 20);
  life.After(absl::Seconds(3), TaskReleased{Rank(0)});
  life.After(absl::Seconds(4), TaskReleased{Rank(1)});
  EXPECT_EQ(life.state(), v1::JOB_STATE_CANCELLED);
  life.Expect(0, 0, 100, 20 + 6 + 4);
}

TEST(SlotAccountTest, APausedJobLosesNothingAndHoldsNothing) {
  Life life;
  life.Start();
  life.After(absl::Seconds(50), PauseRequested{"p"}).Reach(8);
  life.After(absl::Seconds(2), TaskReported{Rank(0), 1, CheckpointAt(8)});
  life.Then(Paused(Rank(0))).Then(Paused(Rank(1)));
  EXPECT_EQ(life.state(), v1::JOB_STATE_PAUSED);
  life.Expect(100, 0, 0, 24);
  life.After(absl::Hours(5), ResumeRequested{"r", {}});
  life.Start();
  life.After(absl::Seconds(10), Killed(Rank(0, 2)));
  life.Expect(100, 20, 0, 44);
}

TEST(SlotAccountTest, AJobStoppedWithoutACheckpointDoesItsStepsAgain) {
  Life life;
  life.Start();
  life.After(absl::Seconds(20), TaskReported{Rank(0), 1, CheckpointAt(3)}).Reach(8);
  life.After(absl::Seconds(30), PauseRequested{"p"});
  Life by_force = life;
  life.Then(Paused(Rank(0))).Then(Paused(Rank(1)));
  life.Expect(40, 60, 0, 20);
  by_force.After(kStopPatience, Tick{});
  EXPECT_EQ(by_force.state(), v1::JOB_STATE_PAUSED);
  by_force.Expect(40, 60, 0, 20 + 2 * absl::ToDoubleSeconds(kStopPatience));
}

TEST(SlotAccountTest, ADamagedCheckpointCostsTheTrainingThatItHeld) {
  Life life;
  life.Start();
  life.After(absl::Seconds(10), TaskReported{Rank(0), 1, CheckpointAt(5)});
  life.After(absl::Seconds(20), TaskReported{Rank(0), 2, CheckpointAt(10)}).Reach(10);
  life.Then(Killed(Rank(1)));
  life.Expect(60, 0, 0, 20);
  const std::string newest = life.record().checkpoints(0).dir();
  protocol::Report resumed;
  resumed.resumed = protocol::ResumedReport{
      .step = 5, .dir = life.record().checkpoints(1).dir(), .damaged = {{newest, "wrong hash"}}};
  life.Then(TwoSlots()).Then(TaskReported{Rank(0, 2), 1, resumed});
  life.Expect(20, 40, 0, 20);
}

TEST(SlotAccountTest, DaysEndAtMidnightUtcAndWhatIsLostIsLostOnItsDay) {
  const absl::Time midnight = absl::UnixEpoch() + absl::Hours(24) * 20000;
  Life life(midnight - absl::Seconds(40));
  life.Start();
  life.After(absl::Seconds(10), TaskReported{Rank(0), 1, CheckpointAt(5)}).Reach(6);
  life.now = midnight + absl::Hours(24) + absl::Seconds(7);
  life.Count();
  EXPECT_DOUBLE_EQ(life.rows[19999].idle, 20);
  EXPECT_DOUBLE_EQ(life.rows[19999].useful, 60);
  EXPECT_DOUBLE_EQ(life.rows[20000].useful, 2 * 86400);
  EXPECT_DOUBLE_EQ(life.rows[20001].useful, 14);
  Life cancelled = life;
  life.Then(Killed(Rank(1)));
  EXPECT_DOUBLE_EQ(life.rows[19999].useful, 20);
  EXPECT_DOUBLE_EQ(life.rows[19999].redone, 40);
  EXPECT_DOUBLE_EQ(life.rows[20000].redone, 2 * 86400);
  EXPECT_DOUBLE_EQ(life.rows[20001].redone, 14);
  cancelled.Then(CancelRequested{"c"});
  EXPECT_DOUBLE_EQ(cancelled.rows[19999].lost, 60);
  EXPECT_DOUBLE_EQ(cancelled.rows[20000].lost, 2 * 86400);
  cancelled.Expect(0, 0, 60 + 2 * 86400 + 14, 20);
}

TEST(SlotAccountTest, AClockThatIsSetBackCountsNothingTwice) {
  Life life;
  life.Start();
  life.now += absl::Seconds(30);
  life.Count();
  life.now -= absl::Hours(1);
  life.Count();
  life.Expect(60, 0, 0, 20);
  life.now += absl::Seconds(5);
  life.Count();
  life.Expect(70, 0, 0, 20);
}

// A record as version 2 of the catalog has it.
internal::JobRecord OldRecord(v1::JobState state) {
  internal::JobRecord record = Running().record;
  record.clear_slot_account();
  record.mutable_job()->set_state(state);
  record.mutable_job()->mutable_usage()->Clear();
  record.mutable_job()->mutable_usage()->set_slot_seconds(100);
  record.mutable_job()->mutable_usage()->set_redone_slot_seconds(30);
  return record;
}

TEST(SlotAccountTest, FinishedJobsOfEarlierVersionsAreBookedOnTheDayOfTheirEnd) {
  internal::JobRecord done = OldRecord(v1::JOB_STATE_SUCCEEDED);
  *done.mutable_job()->mutable_finish_time() = TimestampOf(kNow);
  internal::JobRecord failed = done;
  failed.mutable_job()->set_state(v1::JOB_STATE_FAILED);
  SlotTimeByDay rows, rows_of_failed;
  OpenSlotAccount(kNow + absl::Hours(99), &done, &rows);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_DOUBLE_EQ(rows[DayOf(kNow)].useful, 70);
  EXPECT_DOUBLE_EQ(rows[DayOf(kNow)].redone, 30);
  EXPECT_DOUBLE_EQ(done.job().usage().slot_seconds(), 100);
  OpenSlotAccount(kNow, &failed, &rows_of_failed);
  EXPECT_DOUBLE_EQ(rows_of_failed[DayOf(kNow)].useful, 0);
  EXPECT_DOUBLE_EQ(failed.job().usage().lost_slot_seconds(), 70);
  rows.clear();
  OpenSlotAccount(kNow, &done, &rows);
  EXPECT_TRUE(rows.empty()) << "once";
}

TEST(SlotAccountTest, LiveJobsOfEarlierVersionsGoOnWithWhatTheyHave) {
  internal::JobRecord record = OldRecord(v1::JOB_STATE_RUNNING);
  internal::CheckpointRecord& checkpoint = *record.add_checkpoints();
  checkpoint.set_generation(1);
  checkpoint.set_step(5);
  *checkpoint.mutable_create_time() = TimestampOf(kNow + absl::Seconds(40));
  record.mutable_job()->mutable_progress()->set_step(7);
  const absl::Time now = kNow + absl::Seconds(60);
  SlotTimeByDay rows;
  OpenSlotAccount(now, &record, &rows);
  EXPECT_DOUBLE_EQ(record.job().usage().slot_seconds(), 100 + 120);
  EXPECT_DOUBLE_EQ(record.slot_account().ended_attempts(), 100) << "limits go on";
  const absl::StatusOr<StepResult> failed = Step(record, Killed(Rank(1)), now);
  ANNEAL_ASSERT_OK(failed);
  EXPECT_DOUBLE_EQ(failed->record.job().usage().redone_slot_seconds(), 30 + 40);
}

}  // namespace
}  // namespace anneal
