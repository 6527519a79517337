#include "tools/anneal/follow_log.h"

#include <sstream>

#include "common/base/status_matchers.h"
#include "tools/anneal/testing/fake_coordinator.h"

namespace anneal::cli {
namespace {

using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr char kJob[] = "jobs/01hf7yat00aaaaaaaaaaaaaaaa";

class FollowLogTest : public ::testing::Test {
 protected:
  void AddJob(v1::JobState state, int64_t generation) {
    coordinator_.AddJob(kJob, "job", state);
    coordinator_.ChangeJob(kJob, [&](v1::Job& job) { job.set_generation(generation); });
  }
  static void Succeed(v1::Job& job) { job.set_state(v1::JOB_STATE_SUCCEEDED); }
  absl::Status Follow(const FollowLogOptions& options = {}) {
    return FollowLog(*client_, kJob, options, out_, notes_, Clock::Real(), Random::Real());
  }

  FakeCoordinator coordinator_;
  const std::unique_ptr<Client> client_ = coordinator_.MakeClient();
  std::stringstream out_, notes_;
};

TEST_F(FollowLogTest, GoesOnWhereABrokenStreamEnded) {
  AddJob(v1::JOB_STATE_RUNNING, 1);
  coordinator_.AddLogScript(
      {{"one\n", "tw"}, grpc::Status(grpc::StatusCode::UNAVAILABLE, "restarts")});
  coordinator_.AddLogScript({{"o\n"}, grpc::Status::OK, Succeed});
  ANNEAL_ASSERT_OK(Follow());
  EXPECT_EQ(out_.str(), "one\ntwo\n");
  EXPECT_EQ(notes_.str(), "lost the coordinator; trying to reach it again\nconnected again\n");
  const std::vector<v1::ReadJobLogRequest> requests = coordinator_.log_requests();
  ASSERT_THAT(requests, SizeIs(2));
  EXPECT_TRUE(requests[1].follow());
  EXPECT_EQ(requests[1].offset(), 6);
}

TEST_F(FollowLogTest, GoesOnWithEachNextGeneration) {
  AddJob(v1::JOB_STATE_RUNNING, 1);
  coordinator_.AddLogScript(
      {{"one\n"}, grpc::Status::OK, [](v1::Job& job) { job.set_generation(3); }});
  // The second had no such rank.
  coordinator_.AddLogScript({{}, grpc::Status(grpc::StatusCode::NOT_FOUND, "no such log")});
  coordinator_.AddLogScript({{"three\n"}, grpc::Status::OK, Succeed});
  ANNEAL_ASSERT_OK(Follow({.rank = 2}));
  EXPECT_EQ(out_.str(), "one\n--- generation 2 ---\n--- generation 3 ---\nthree\n");
  const std::vector<v1::ReadJobLogRequest> requests = coordinator_.log_requests();
  ASSERT_THAT(requests, SizeIs(3));
  EXPECT_EQ(requests[2].generation(), 3);
  EXPECT_EQ(requests[2].rank(), 2);
  EXPECT_EQ(requests[2].offset(), 0);
}

TEST_F(FollowLogTest, AGenerationThatWasAskedForIsAllThereIs) {
  AddJob(v1::JOB_STATE_RUNNING, 5);
  coordinator_.AddLogScript({{"two\n"}, grpc::Status::OK});
  ANNEAL_ASSERT_OK(Follow({.generation = 2}));
  EXPECT_EQ(out_.str(), "two\n");
  coordinator_.AddLogScript({{"prepared\n"}, grpc::Status::OK});
  ANNEAL_ASSERT_OK(Follow({.rank = -1}));
}

TEST_F(FollowLogTest, WaitsForAJobThatHasNoTrainerYet) {
  AddJob(v1::JOB_STATE_QUEUED, 0);
  coordinator_.ChangeJob(kJob, [](v1::Job& job) { job.set_state_message("needs 4 slots"); });
  int asked = 0;
  coordinator_.OnGetJob([&asked](v1::Job& job) {
    if (++asked == 2) job.set_generation(1);
  });
  coordinator_.AddLogScript({{"one\n"}, grpc::Status::OK, Succeed});
  ANNEAL_ASSERT_OK(Follow());
  EXPECT_EQ(out_.str(), "one\n");
  EXPECT_EQ(notes_.str(), "no trainer yet: the job is QUEUED: needs 4 slots\n");
}

TEST_F(FollowLogTest, AJobThatEndedWithoutALogIsAnError) {
  AddJob(v1::JOB_STATE_CANCELLED, 0);
  coordinator_.AddLogScript({{}, grpc::Status(grpc::StatusCode::NOT_FOUND, "has not run")});
  EXPECT_THAT(Follow(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("has not run")));
}

TEST_F(FollowLogTest, GivesUpOnlyWhenNobodyAnswersForLong) {
  AddJob(v1::JOB_STATE_RUNNING, 1);
  for (int i = 0; i < 100; ++i) {
    coordinator_.AddLogScript({{}, grpc::Status(grpc::StatusCode::UNAVAILABLE, "away")});
  }
  EXPECT_THAT(Follow({.generation = 1, .patience = absl::ZeroDuration()}),
              StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(FollowLog(*client_, "jobs/none", {}, out_, notes_, Clock::Real(), Random::Real()),
              StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace anneal::cli
