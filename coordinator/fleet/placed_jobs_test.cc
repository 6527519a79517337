#include "coordinator/fleet/placed_jobs.h"

#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Rank N is on worker N of the list.
std::shared_ptr<internal::JobRecord> TrainingOn(const std::string& id,
                                                const std::vector<std::string>& workers) {
  auto record = std::make_shared<internal::JobRecord>();
  record->set_id(id);
  record->mutable_train()->set_generation(1);
  for (size_t rank = 0; rank < workers.size(); ++rank) {
    internal::RankRecord& out = *record->mutable_train()->add_ranks();
    out.set_rank(static_cast<int32_t>(rank));
    out.set_worker(workers[rank]);
  }
  return record;
}

TEST(PlacedJobsTest, FindsWhatAWorkerHasToDo) {
  PlacedJobs jobs;
  jobs.Put(TrainingOn("a", {"w1", "w1", "w2"}));
  jobs.Put(TrainingOn("b", {"w2"}));
  EXPECT_THAT(jobs.On("w1"), ElementsAre("a"));
  EXPECT_THAT(jobs.On("w2"), ElementsAre("a", "b"));
  EXPECT_THAT(jobs.On("w3"), IsEmpty());
  EXPECT_EQ(jobs.Get("a").train().ranks_size(), 3);
  EXPECT_EQ(jobs.by_worker().size(), 2u);
}

TEST(PlacedJobsTest, AJobWithoutOpenTasksIsNotPlaced) {
  PlacedJobs jobs;
  jobs.Put(TrainingOn("waits", {}));
  EXPECT_THAT(jobs.by_worker(), IsEmpty());
  const auto ended = TrainingOn("a", {"w1", "w2"});
  jobs.Put(std::make_shared<internal::JobRecord>(*ended));
  ended->mutable_train()->mutable_ranks(0)->set_ended(true);
  jobs.Put(ended);
  EXPECT_THAT(jobs.On("w1"), IsEmpty());
  EXPECT_THAT(jobs.On("w2"), ElementsAre("a"));
  jobs.Remove("a");
  EXPECT_THAT(jobs.by_worker(), IsEmpty());
  jobs.Remove("a");
}

TEST(PlacedJobsTest, APrepareTaskIsOneToo) {
  PlacedJobs jobs;
  auto record = std::make_shared<internal::JobRecord>();
  record->set_id("a");
  record->mutable_prepare()->set_attempt(1);
  record->mutable_prepare()->set_worker("w1");
  jobs.Put(record);
  EXPECT_THAT(jobs.On("w1"), ElementsAre("a"));
}

TEST(PlacedJobsTest, TellsWhoIsConcernedOnce) {
  PlacedJobs jobs;
  jobs.Put(TrainingOn("a", {"w1"}));
  EXPECT_THAT(jobs.TakeTouched(), ElementsAre("w1"));
  EXPECT_THAT(jobs.TakeTouched(), IsEmpty());
  // It moves: the old worker must stop it, the new one begin.
  jobs.Put(TrainingOn("a", {"w2"}));
  EXPECT_THAT(jobs.TakeTouched(), ElementsAre("w1", "w2"));
  // Nothing has moved, but what is asked of the trainer may have changed.
  jobs.Put(TrainingOn("a", {"w2"}));
  EXPECT_THAT(jobs.TakeTouched(), ElementsAre("w2"));
  jobs.Remove("a");
  EXPECT_THAT(jobs.TakeTouched(), ElementsAre("w2"));
}

}  // namespace
}  // namespace anneal
