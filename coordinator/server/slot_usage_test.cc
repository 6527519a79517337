// Slot time, from what workers do to what ListUsage says.

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/server/testing/coordinator_fixture.h"

namespace anneal {
namespace {

using testing::FakeWorker;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::IsOk;
using ::testing::SizeIs;
using testing::StatusIs;

using Cluster = v1::ClusterService::Stub;

class UsageTest : public testing::CoordinatorFixture {
 protected:
  absl::StatusOr<v1::ListUsageResponse> List(const v1::ListUsageRequest& request = {},
                                             const char* key = testing::kKey) {
    return Call(*cluster_, &Cluster::ListUsage, request, key);
  }
  static v1::ListUsageRequest AllProjects() {
    v1::ListUsageRequest request;
    request.set_all_projects(true);
    return request;
  }
  // The sum of what is booked in the caller's project, by kind.
  v1::JobUsage Booked(const char* key = testing::kKey) {
    v1::JobUsage sum;
    const absl::StatusOr<v1::ListUsageResponse> listed = List({}, key);
    EXPECT_THAT(listed, IsOk());
    for (const v1::Usage& row : listed->usage()) {
      sum.set_redone_slot_seconds(sum.redone_slot_seconds() + row.redone_slot_seconds());
      sum.set_lost_slot_seconds(sum.lost_slot_seconds() + row.lost_slot_seconds());
      sum.set_idle_slot_seconds(sum.idle_slot_seconds() + row.idle_slot_seconds());
      sum.set_slot_seconds(sum.slot_seconds() + row.useful_slot_seconds() +
                           row.redone_slot_seconds() + row.lost_slot_seconds() +
                           row.idle_slot_seconds());
      EXPECT_EQ(row.free_slot_seconds(), 0);
    }
    return sum;
  }
  void ExpectBooked(const v1::JobUsage& usage) {
    const v1::JobUsage booked = Booked();
    EXPECT_NEAR(booked.slot_seconds(), usage.slot_seconds(), 1e-6);
    EXPECT_NEAR(booked.redone_slot_seconds(), usage.redone_slot_seconds(), 1e-6);
    EXPECT_NEAR(booked.lost_slot_seconds(), usage.lost_slot_seconds(), 1e-6);
    EXPECT_NEAR(booked.idle_slot_seconds(), usage.idle_slot_seconds(), 1e-6);
  }
  v1::Job Finish(FakeWorker& worker, const v1::Job& job, int64_t sequence) {
    ReportResult(*worker.observed().mutable_tasks(0), sequence);
    worker.Sync();
    return AwaitState(job.name(), v1::JOB_STATE_SUCCEEDED);
  }
};

TEST_F(UsageTest, WhatIsBookedIsWhatTheJobsShowAndOutlivesThem) {
  auto worker = StartWorker("w1", 2);
  const v1::Job job = Finish(*worker, StartTraining(*worker, 1), 1);
  const v1::JobUsage& usage = job.usage();
  EXPECT_GT(usage.idle_slot_seconds(), 0);
  EXPECT_GT(usage.slot_seconds(), usage.idle_slot_seconds());
  EXPECT_EQ(usage.lost_slot_seconds() + usage.redone_slot_seconds(), 0);
  ExpectBooked(usage);
  v1::DeleteJobRequest remove;
  remove.set_name(job.name());
  ANNEAL_ASSERT_OK(Call(*jobs_, &Jobs::DeleteJob, remove).status());
  ExpectBooked(usage);
  worker.reset();
  StartCoordinator();
  EXPECT_THAT(Get(job.name()), StatusIs(absl::StatusCode::kNotFound));
  ExpectBooked(usage);
}

TEST_F(UsageTest, ACoordinatorThatStartsAgainCountsNothingTwice) {
  auto worker = StartWorker("w1", 1);
  const v1::Job job = StartTraining(*worker, 1);
  const internal::Observed observed = worker->observed();
  worker.reset();
  double shown = Booked().slot_seconds();
  for (int starts = 0; starts < 3; ++starts) {
    StartCoordinator();
    // Its first turn books what the attempt has done meanwhile.
    const double before = shown;
    const absl::Time patience = absl::Now() + absl::Seconds(20);
    while (shown <= before && absl::Now() < patience) shown = Booked().slot_seconds();
    EXPECT_GT(shown, before);
  }
  // Its trainer has lived on.
  worker = std::make_unique<FakeWorker>(coordinator_->fleet_address(), testing::kKey, "w1", 1);
  *worker->observed().mutable_tasks() = observed.tasks();
  worker->Sync();
  const v1::Job done = Finish(*worker, job, 1);
  ExpectBooked(done.usage());
  const absl::Duration held =
      absl::Seconds(done.finish_time().seconds()) + absl::Nanoseconds(done.finish_time().nanos()) -
      absl::Seconds(done.start_time().seconds()) - absl::Nanoseconds(done.start_time().nanos());
  EXPECT_NEAR(done.usage().slot_seconds(), absl::ToDoubleSeconds(held), 1e-4);
}

TEST_F(UsageTest, ACancelledJobHasLostWhatItDid) {
  auto worker = StartWorker("w1", 1);
  const v1::Job job = StartTraining(*worker, 1);
  ANNEAL_ASSERT_OK(Act(&Jobs::CancelJob, job.name()).status());
  worker->AwaitTasks(0);
  worker->observed().clear_tasks();
  worker->Sync();
  const v1::Job cancelled = AwaitState(job.name(), v1::JOB_STATE_CANCELLED);
  EXPECT_GT(cancelled.usage().lost_slot_seconds(), 0);
  EXPECT_NEAR(cancelled.usage().slot_seconds(),
              cancelled.usage().lost_slot_seconds() + cancelled.usage().idle_slot_seconds(), 1e-6);
  ExpectBooked(cancelled.usage());
}

TEST_F(UsageTest, OthersSeeTheirOwnProjectAndAdminsAllAndFreeSlots) {
  auto worker = StartWorker("w1", 2);
  Finish(*worker, StartTraining(*worker, 1), 1);
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::ListUsageResponse mine, List());
  ASSERT_THAT(mine.usage(), SizeIs(1));
  EXPECT_EQ(mine.usage(0).project(), "vision");
  EXPECT_EQ(mine.usage(0).creator(), "ada");
  EXPECT_EQ(mine.usage(0).accelerator(), v1::ResourceSpec::ACCELERATOR_CPU);
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::ListUsageResponse theirs, List({}, testing::kOtherKey));
  EXPECT_THAT(theirs.usage(), IsEmpty());
  EXPECT_THAT(List(AllProjects(), testing::kOtherKey),
              StatusIs(absl::StatusCode::kPermissionDenied));

  v1::ListUsageRequest request = AllProjects();
  request.set_page_size(1);
  std::vector<v1::Usage> all;
  do {
    ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::ListUsageResponse page, List(request));
    ASSERT_THAT(page.usage(), SizeIs(1));
    all.push_back(page.usage(0));
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  ASSERT_THAT(all, SizeIs(2));
  EXPECT_EQ(all[0].project(), "");
  EXPECT_GT(all[0].free_slot_seconds(), 0);
  EXPECT_EQ(all[1].project(), "vision");
}

TEST_F(UsageTest, DaysAreDatesAndBothCount) {
  auto worker = StartWorker("w1", 1);
  Finish(*worker, StartTraining(*worker, 1), 1);
  v1::ListUsageRequest request;
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::ListUsageResponse listed, List());
  request.set_first_day(listed.usage(0).day());
  request.set_last_day(listed.usage(0).day());
  EXPECT_THAT(List(request)->usage(), SizeIs(1));
  request.set_first_day("1999-12-31");
  request.set_last_day("2000-01-01");
  EXPECT_THAT(List(request)->usage(), IsEmpty());
  request.set_last_day("1999-12-30");
  EXPECT_THAT(List(request), StatusIs(absl::StatusCode::kInvalidArgument,
                                      HasSubstr("1999-12-30 is before first_day 1999-12-31")));
  for (const char* wrong : {"yesterday", "2026-13-01", "2026-2-1", "2026-02-30"}) {
    request.set_last_day(wrong);
    EXPECT_THAT(List(request),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr(absl::StrCat("last_day: '", wrong, "' is not a day"))));
  }
}

}  // namespace
}  // namespace anneal
