#include "coordinator/server/job_queue.h"

#include "coordinator/lifecycle/proto_time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);

internal::JobRecord Waiting(const std::string& id, v1::JobState state, absl::Duration waited,
                            v1::ResourceSpec::Accelerator accelerator,
                            v1::JobSpec::Priority priority = v1::JobSpec::PRIORITY_NORMAL) {
  internal::JobRecord record;
  record.set_id(id);
  record.mutable_job()->set_state(state);
  *record.mutable_queue_time() = TimestampOf(kNow - waited);
  v1::JobSpec& spec = *record.mutable_job()->mutable_resolved()->mutable_spec();
  spec.set_priority(priority);
  spec.mutable_resources()->set_slots(1);
  spec.mutable_resources()->set_accelerator(accelerator);
  return record;
}
internal::JobRecord OnCpu(const std::string& id, absl::Duration waited) {
  return Waiting(id, v1::JOB_STATE_QUEUED, waited, v1::ResourceSpec::ACCELERATOR_CPU);
}

std::vector<std::string> Ids(const std::vector<WaitingJob>& jobs) {
  std::vector<std::string> ids;
  for (const WaitingJob& job : jobs) ids.push_back(job.place.id);
  return ids;
}

TEST(JobQueueTest, GivesTheFirstOfEachKindInOrder) {
  JobQueue queue;
  queue.Put(OnCpu("c1", absl::Seconds(1)));
  queue.Put(OnCpu("c3", absl::Seconds(3)));
  queue.Put(OnCpu("c2", absl::Seconds(2)));
  queue.Put(
      Waiting("g1", v1::JOB_STATE_QUEUED, absl::Seconds(1), v1::ResourceSpec::ACCELERATOR_GPU));
  queue.Put(
      Waiting("p1", v1::JOB_STATE_PENDING, absl::Seconds(1), v1::ResourceSpec::ACCELERATOR_GPU));
  EXPECT_THAT(Ids(queue.First(2, kNow)), ElementsAre("p1", "c3", "c2", "g1"));
  EXPECT_THAT(Ids(queue.First(3, kNow)), ElementsAre("p1", "c3", "c2", "c1", "g1"));
}

TEST(JobQueueTest, RecoveringJobsComeFirstThenPriority) {
  JobQueue queue;
  queue.Put(OnCpu("old", absl::Hours(1)));
  queue.Put(Waiting("urgent", v1::JOB_STATE_QUEUED, absl::Seconds(1),
                    v1::ResourceSpec::ACCELERATOR_CPU, v1::JobSpec::PRIORITY_HIGH));
  queue.Put(Waiting("recovering", v1::JOB_STATE_RECOVERING, absl::Seconds(0),
                    v1::ResourceSpec::ACCELERATOR_CPU, v1::JobSpec::PRIORITY_LOW));
  EXPECT_THAT(Ids(queue.First(9, kNow)), ElementsAre("recovering", "urgent", "old"));
}

TEST(JobQueueTest, AJobLeavesWhenItsNewestRecordDoesNotWait) {
  JobQueue queue;
  queue.Put(OnCpu("a", absl::Seconds(2)));
  queue.Put(OnCpu("b", absl::Seconds(1)));
  internal::JobRecord started = OnCpu("a", absl::Seconds(2));
  started.mutable_job()->set_state(v1::JOB_STATE_STARTING);
  queue.Put(started);
  EXPECT_THAT(Ids(queue.First(9, kNow)), ElementsAre("b"));
  queue.Remove("b");
  queue.Remove("b");
  EXPECT_THAT(queue.First(9, kNow), IsEmpty());
  // It queues again, at another place.
  queue.Put(OnCpu("a", absl::Seconds(0)));
  queue.Put(OnCpu("c", absl::Seconds(1)));
  EXPECT_THAT(Ids(queue.First(9, kNow)), ElementsAre("c", "a"));
}

TEST(JobQueueTest, AJobThatComesBackKeepsItsPlaceAndWaitsAnew) {
  JobQueue queue;
  internal::JobRecord moved = OnCpu("moved", absl::Hours(9));
  *moved.mutable_state_time() = TimestampOf(kNow - absl::Seconds(1));
  queue.Put(moved);
  queue.Put(OnCpu("new", absl::Minutes(1)));
  const std::vector<WaitingJob> jobs = queue.First(9, kNow);
  EXPECT_THAT(Ids(jobs), ElementsAre("moved", "new"));
  EXPECT_EQ(jobs[0].waits_since, kNow - absl::Seconds(1));
  EXPECT_EQ(jobs[1].waits_since, kNow - absl::Minutes(1));
}

TEST(JobQueueTest, WhatIsWantedGrowsWithEachJobThatHasNoSlotsYet) {
  JobQueue queue;
  EXPECT_EQ(queue.CountWanted(), SlotsWanted());
  const auto put = [&queue](const std::string& id, v1::JobState state, int slots,
                            v1::ResourceSpec::Accelerator accelerator) {
    internal::JobRecord record = Waiting(id, state, absl::Seconds(1), accelerator);
    record.mutable_job()->mutable_resolved()->mutable_spec()->mutable_resources()->set_slots(slots);
    for (int i = 0; state == v1::JOB_STATE_RECOVERING && i < 3; ++i)
      record.mutable_train()->add_ranks()->set_worker("w1");
    queue.Put(record);
  };
  const auto cpu = v1::ResourceSpec::ACCELERATOR_CPU, gpu = v1::ResourceSpec::ACCELERATOR_GPU;
  put("pending", v1::JOB_STATE_PENDING, 8, gpu);
  EXPECT_EQ(queue.CountWanted(), (SlotsWanted{.gpu = 8}));
  // Nothing changes while its data is prepared, nor when that is done.
  put("pending", v1::JOB_STATE_PREPARING, 8, gpu);
  EXPECT_EQ(queue.CountWanted(), (SlotsWanted{.gpu = 8}));
  EXPECT_THAT(queue.First(9, kNow), IsEmpty());
  put("pending", v1::JOB_STATE_QUEUED, 8, gpu);
  EXPECT_EQ(queue.CountWanted(), (SlotsWanted{.gpu = 8}));
  put("other", v1::JOB_STATE_QUEUED, 2, cpu);
  EXPECT_EQ(queue.CountWanted(), (SlotsWanted{.cpu = 2, .gpu = 8}));
  // Three of four are kept for it.
  put("recovering", v1::JOB_STATE_RECOVERING, 4, gpu);
  EXPECT_EQ(queue.CountWanted(), (SlotsWanted{.cpu = 2, .gpu = 9}));
  put("recovering", v1::JOB_STATE_RECOVERING, 2, gpu);
  EXPECT_EQ(queue.CountWanted(), (SlotsWanted{.cpu = 2, .gpu = 8}));
  put("pending", v1::JOB_STATE_STARTING, 8, gpu);
  queue.Remove("other");
  EXPECT_EQ(queue.CountWanted(), SlotsWanted());
}

TEST(JobQueueTest, AllHaveTheirTurn) {
  JobQueue queue;
  EXPECT_THAT(queue.NextInTurn(2), IsEmpty());
  for (const char* id : {"a", "b", "c"}) queue.Put(OnCpu(id, absl::Seconds(1)));
  EXPECT_THAT(queue.NextInTurn(2), ElementsAre("a", "b"));
  queue.Remove("b");
  EXPECT_THAT(queue.NextInTurn(2), ElementsAre("c"));
  EXPECT_THAT(queue.NextInTurn(2), IsEmpty());
  EXPECT_THAT(queue.NextInTurn(2), ElementsAre("a", "c"));
}

TEST(JobQueueTest, WhoMustWaitBeforeATryDoesNotTakeAPlaceInThePlan) {
  JobQueue queue;
  internal::JobRecord failed = OnCpu("failed", absl::Seconds(9));
  *failed.mutable_retry()->mutable_not_before() = TimestampOf(kNow + absl::Seconds(5));
  queue.Put(failed);
  queue.Put(OnCpu("next", absl::Seconds(1)));
  EXPECT_THAT(Ids(queue.First(1, kNow)), ElementsAre("next"));
  EXPECT_EQ(queue.FindLongestWaits(kNow).slots, absl::Seconds(1));
  EXPECT_EQ(queue.FindLongestWaits(kNow + absl::Seconds(5)).slots, absl::Seconds(14));
  EXPECT_EQ(queue.FindLongestWaits(kNow).prepare, absl::ZeroDuration());
  EXPECT_THAT(Ids(queue.First(1, kNow + absl::Seconds(5))), ElementsAre("failed"));
  queue.Remove("failed");
  EXPECT_EQ(queue.FindLongestWaits(kNow + absl::Seconds(5)).slots, absl::Seconds(6));
  EXPECT_EQ(queue.FindLongestWaits(kNow - absl::Seconds(5)).slots, absl::ZeroDuration());
  // Being prepared is no wait.
  const auto cpu = v1::ResourceSpec::ACCELERATOR_CPU;
  queue.Put(Waiting("next", v1::JOB_STATE_PREPARING, absl::Seconds(1), cpu));
  EXPECT_EQ(queue.FindLongestWaits(kNow).slots, absl::ZeroDuration());
  queue.Put(Waiting("next", v1::JOB_STATE_PENDING, absl::Seconds(1), cpu));
  EXPECT_EQ(queue.FindLongestWaits(kNow).prepare, absl::Seconds(1));
}

}  // namespace
}  // namespace anneal
