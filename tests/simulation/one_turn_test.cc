// Wishes that meet in one turn of the control loop.

#include <memory>
#include <string>

#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "gmock/gmock.h"
#include "tests/simulation/sim_cluster.h"

namespace anneal::simulation {
namespace {

using ::anneal::testing::IsOk;
using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;
using Answer = absl::StatusOr<std::shared_ptr<const internal::JobRecord>>;

class OneTurnTest : public ::testing::Test {
 protected:
  // Of the kind that the loop takes; `reads` is what it must not lose.
  static internal::JobRecord Job(const std::string& id, const std::string& reads = "") {
    internal::JobRecord record;
    record.set_id(id);
    record.mutable_job()->set_name("jobs/" + id);
    record.mutable_job()->set_project("p");
    v1::ResourceSpec& resources =
        *record.mutable_job()->mutable_resolved()->mutable_spec()->mutable_resources();
    resources.set_slots(1);
    resources.set_accelerator(v1::ResourceSpec::ACCELERATOR_CPU);
    if (!reads.empty()) record.mutable_inputs()->add_resources(reads);
    return record;
  }
  static EventSink::JobReply Into(Answer* answer) {
    return [answer](const Answer& given) { *answer = given; };
  }

  World world_{1};
  SimDisk disk_{world_};
  SimOutputs outputs_{world_, disk_};
  const anneal::testing::TempDir dir_;
  const std::unique_ptr<StepMetricsWriter> steps_ = *StepMetricsWriter::Open(dir_.path());
  SimCoordinator coordinator_{world_, disk_, outputs_, *steps_};
  ControlLoop& loop_ = *coordinator_.loop;
};

TEST_F(OneTurnTest, WhatIsDeletedCannotBeBuiltOn) {
  Answer made = absl::UnknownError("not answered"), ended = made, deleted = made, child = made;
  loop_.CreateJob(Job("a"), "", Into(&made));
  loop_.ChangeJob("p", "a", CancelRequested{""}, "", Into(&ended));
  loop_.TakeTurn();
  ASSERT_THAT(made, IsOk());
  ASSERT_THAT(ended, IsOk());
  ASSERT_EQ((*ended)->job().state(), v1::JOB_STATE_CANCELLED);

  loop_.DeleteJob("p", "a", "", Into(&deleted));
  loop_.CreateJob(Job("b", "jobs/a"), "", Into(&child));
  loop_.TakeTurn();
  EXPECT_THAT(deleted, IsOk());
  EXPECT_THAT(child, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("jobs/a")));
}

TEST_F(OneTurnTest, WhatIsBuiltOnCannotBeDeleted) {
  Answer made = absl::UnknownError("not answered"), ended = made, deleted = made, child = made;
  loop_.CreateJob(Job("a"), "", Into(&made));
  loop_.ChangeJob("p", "a", CancelRequested{""}, "", Into(&ended));
  loop_.TakeTurn();
  loop_.CreateJob(Job("b", "jobs/a"), "", Into(&child));
  loop_.DeleteJob("p", "a", "", Into(&deleted));
  loop_.TakeTurn();
  EXPECT_THAT(child, IsOk());
  EXPECT_THAT(deleted, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("jobs/b")));
}

}  // namespace
}  // namespace anneal::simulation
