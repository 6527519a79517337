// What the coordinator tells of the slots that jobs want: to those who bring workers, and to the
// workers that are there.

#include <string>

#include "absl/strings/match.h"
#include "common/base/clock.h"
#include "common/base/status_matchers.h"
#include "common/metrics/testing/http_get.h"
#include "coordinator/server/testing/coordinator_fixture.h"

namespace anneal {
namespace {

using ::testing::HasSubstr;

class SlotsWantedTest : public testing::CoordinatorFixture {
 protected:
  // Polls the admin endpoint, which announces nothing; fails the test after 20 s.
  void AwaitMetric(const std::string& line) {
    const absl::Duration end = Clock::Real().MonotonicNow() + absl::Seconds(20);
    std::string page;
    do {
      page = testing::HttpGet(coordinator_->admin_address(), "GET /metrics");
      if (absl::StrContains(page, line)) return;
      Clock::Real().Sleep(absl::Milliseconds(20));
    } while (Clock::Real().MonotonicNow() < end);
    ADD_FAILURE() << "waited in vain for " << line << page;
  }
};

TEST_F(SlotsWantedTest, WhatIsWantedShowsBeforeThereIsAnyWorker) {
  options_.admin_listen = "127.0.0.1:0";
  StartCoordinator();
  v1::CreateJobRequest request = NewRequest(4);
  request.mutable_spec()->mutable_resources()->set_accelerator(v1::ResourceSpec::ACCELERATOR_GPU);
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Job job, Create(request));
  EXPECT_EQ(job.state(), v1::JOB_STATE_PENDING);
  AwaitMetric("anneal_slots_wanted{accelerator=\"gpu\"} 4\n");
  EXPECT_THAT(testing::HttpGet(coordinator_->admin_address(), "GET /metrics"),
              HasSubstr("anneal_slots_wanted{accelerator=\"cpu\"} 0\n"));
  ANNEAL_ASSERT_OK(Act(&Jobs::CancelJob, job.name()));
  AwaitMetric("anneal_slots_wanted{accelerator=\"gpu\"} 0\n");
}

// Plans follow each other with pauses; a job that is made in one hears what those before it heard.
TEST_F(SlotsWantedTest, AnAnswerSaysWhyTheJobWaits) {
  for (int i = 0; i < 20; ++i) {
    ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Job job, Create(NewRequest(1)));
    EXPECT_EQ(job.state_reason(), "NO_WORKER") << job.state_message();
  }
  auto worker = StartWorker("w1", 1);
  EXPECT_EQ(worker->AwaitTasks(1).tasks_size(), 1) << "it is told what they wait for";
}

TEST_F(SlotsWantedTest, WorkersHearWhetherTheirKindOfSlotIsWanted) {
  auto worker = StartWorker("w1", 1);
  const auto await = [&worker](bool wanted) {
    worker->AwaitDesired([wanted](const internal::Desired& d) { return d.is_wanted() == wanted; });
  };
  v1::CreateJobRequest request = NewRequest(2);
  request.mutable_spec()->mutable_resources()->set_accelerator(v1::ResourceSpec::ACCELERATOR_GPU);
  ANNEAL_ASSERT_OK(Create(request));
  FinishPrepare(*worker);
  worker->AwaitTasks(0);
  EXPECT_FALSE(worker->AwaitTasks(0).is_wanted()) << "it has no GPU";
  worker->observed().clear_tasks();
  worker->Sync();
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Job job, Create(NewRequest(2)));
  await(true);
  FinishPrepare(*worker);
  AwaitState(job.name(), v1::JOB_STATE_QUEUED);
  await(true);
  ANNEAL_ASSERT_OK(Act(&Jobs::CancelJob, job.name()));
  await(false);
}

}  // namespace
}  // namespace anneal
