// How the coordinator carries jobs over what breaks, and over what users and operators interrupt.

#include <algorithm>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "coordinator/catalog/sqlite.h"
#include "coordinator/server/testing/coordinator_fixture.h"

namespace anneal {
namespace {

using ::anneal::testing::FakeWorker;
using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class RecoveryTest : public testing::CoordinatorFixture {
 protected:
  void BackUp() {
    ANNEAL_ASSERT_OK_AND_ASSIGN(Database live, Database::Open(options_.data_dir + "/catalog.db",
                                                              Database::Synchronous::kFull));
    ANNEAL_ASSERT_OK(live.Execute(absl::StrCat("VACUUM INTO '", folder_, "/backup.db'")));
  }
  // Stops the coordinator, puts the backup in its catalog's place, and starts it again.
  void Restore() {
    coordinator_.reset();
    for (const char* file : {"catalog.db", "catalog.db-wal", "catalog.db-shm"})
      std::filesystem::remove(options_.data_dir + "/" + file);
    std::filesystem::copy(folder_ + "/backup.db", options_.data_dir + "/catalog.db");
    StartCoordinator();
  }
  // Leads a job of one slot, which was backed up in generation 1, to generation 2.
  v1::Job GoOnAfterBackup(FakeWorker& worker) {
    const v1::Job job = StartTraining(worker, 1);
    BackUp();
    internal::TaskObservation& task = *worker.observed().mutable_tasks(0);
    task.set_state(internal::TaskObservation::STATE_EXITED);
    task.mutable_exit()->set_exit_code(-1);
    task.mutable_exit()->set_signal(9);
    worker.Sync();
    AwaitGeneration(worker, 2, 1);
    return job;
  }
};

TEST_F(RecoveryTest, ARestoredCatalogGivesNoGenerationTwice) {
  auto worker = StartWorker("w1", 1);
  const v1::Job job = GoOnAfterBackup(*worker);
  worker->observed().mutable_tasks(0)->mutable_id()->set_generation(2);
  worker->observed().mutable_tasks(0)->set_state(internal::TaskObservation::STATE_RUNNING);
  const internal::Observed observed = worker->observed();
  const int64_t epoch = worker->AwaitTasks(1).coordinator_epoch();
  Restore();
  // The worker has seen a later epoch than the backup's, and runs what the catalog does not know.
  FakeWorker again(coordinator_->fleet_address(), testing::kKey, "w1", 1);
  again.observed() = observed;
  again.observed().set_coordinator_epoch(epoch);
  again.Sync();
  AwaitGeneration(again, 3, 1);
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Job restored, Get(job.name()));
  EXPECT_EQ(restored.failures().infrastructure(), 0);
  EXPECT_EQ(restored.attempts(), 2);
}

TEST_F(RecoveryTest, WhatLostGenerationsHaveLeftInStorageIsSkippedAtTheStart) {
  auto worker = StartWorker("w1", 1);
  const v1::Job job = GoOnAfterBackup(*worker);
  std::filesystem::create_directories(
      absl::StrCat(options_.storage_root, "/", job.name(), "/logs/g2"));
  Restore();
  AwaitState(job.name(), v1::JOB_STATE_RECOVERING);
  // Nobody says a word of generation 2, and it may live where nobody is heard.
  auto other = StartWorker("w2", 1);
  AwaitGeneration(*other, 3, 1);
  // An ordinary start changes nothing.
  const size_t events = Events(job.name()).size();
  StartCoordinator();
  EXPECT_EQ(Events(job.name()).size(), events);
}

TEST_F(RecoveryTest, AKilledTrainerLeadsToANewGenerationFromTheLastCheckpoint) {
  auto worker = StartWorker("w1", 2);
  const v1::Job job = StartTraining(*worker, 2);
  FakeWorker::Report(*worker->observed().mutable_tasks(0), CheckpointReport(job, 7, 1), 1);
  internal::TaskObservation& rank1 = *worker->observed().mutable_tasks(1);
  rank1.set_state(internal::TaskObservation::STATE_EXITED);
  rank1.mutable_exit()->set_exit_code(-1);
  rank1.mutable_exit()->set_signal(9);
  rank1.mutable_exit()->set_log_tail("step 12 loss 1.5");
  worker->Sync();
  const protocol::TrainTask task = AwaitGeneration(*worker, 2, 2);
  ASSERT_THAT(task.resume_from, SizeIs(1));
  EXPECT_EQ(task.resume_from[0].step, 7);
  EXPECT_EQ(task.resume_from[0].dir, job.name() + "/checkpoints/7-g1");
  EXPECT_EQ(task.checkpoint_root, job.name() + "/checkpoints");
  EXPECT_EQ(task.checkpoint_seconds, 600);
  const v1::Job again = AwaitState(job.name(), v1::JOB_STATE_STARTING);
  EXPECT_EQ(again.failures().infrastructure(), 1);
  EXPECT_EQ(again.log_tail(), "step 12 loss 1.5");
  const std::vector<v1::JobEvent> events = Events(job.name());
  const auto end = std::find_if(events.begin(), events.end(),
                                [](const v1::JobEvent& e) { return e.has_attempt_end(); });
  ASSERT_NE(end, events.end());
  EXPECT_THAT(end->message(),
              HasSubstr("rank 1 on worker w1 ended (killed by signal 9 (SIGKILL))"));
  EXPECT_EQ(end->attempt_end().blame(), "infrastructure");
}

TEST_F(RecoveryTest, WhenAllRanksWaitTheOneFurthestBehindHangs) {
  auto worker = StartWorker("w1", 2);
  const v1::Job job = StartTraining(*worker, 2);
  const auto wait = [&](int rank, int64_t sequence) {
    internal::CollectiveWait& wait = *worker->observed().mutable_tasks(rank)->mutable_overdue();
    wait.set_sequence(sequence);
    wait.set_where(absl::StrCat("inside collective ", sequence, " 'share losses step 12'"));
  };
  // A rank that is not overdue is at work, and the others wait for it.
  wait(0, 346);
  FakeWorker::Report(*worker->observed().mutable_tasks(0), StepReport(11), 1);
  worker->Sync();
  AwaitJob(job.name(), [](const v1::Job& j) { return j.progress().step() == 11; });
  EXPECT_EQ(Get(job.name())->state(), v1::JOB_STATE_RUNNING);
  wait(1, 345);
  worker->Sync();
  AwaitGeneration(*worker, 2, 2);
  const std::vector<v1::JobEvent> events = Events(job.name());
  const auto end = std::find_if(events.begin(), events.end(),
                                [](const v1::JobEvent& e) { return e.has_attempt_end(); });
  ASSERT_NE(end, events.end());
  EXPECT_EQ(end->attempt_end().rank(), 1);
  EXPECT_EQ(end->attempt_end().blame(), "infrastructure");
  EXPECT_THAT(end->message(),
              HasSubstr("rank 1 hangs inside collective 345 'share losses step 12'"));
}

TEST_F(RecoveryTest, APausedJobFreesItsSlotsAndGoesOnWithOthers) {
  auto worker = StartWorker("w1", 2);
  const v1::Job job = StartTraining(*worker, 2);
  ANNEAL_ASSERT_OK_AND_ASSIGN(v1::Job pausing, Act(&Jobs::PauseJob, job.name(), "p1"));
  EXPECT_EQ(pausing.state(), v1::JOB_STATE_PAUSING);
  worker->AwaitDesired([](const internal::Desired& d) {
    return d.tasks_size() == 2 && d.tasks(1).action() == internal::DesiredTask::ACTION_PAUSE;
  });
  FakeWorker::Report(*worker->observed().mutable_tasks(0), CheckpointReport(job, 5, 1), 1);
  for (internal::TaskObservation& task : *worker->observed().mutable_tasks()) {
    task.set_state(internal::TaskObservation::STATE_EXITED);
    task.mutable_exit()->set_reason("PAUSED");
  }
  worker->Sync();
  AwaitState(job.name(), v1::JOB_STATE_PAUSED);
  worker->AwaitTasks(0);
  v1::ListCheckpointsRequest list;
  list.set_name(job.name());
  ANNEAL_ASSERT_OK_AND_ASSIGN(v1::ListCheckpointsResponse checkpoints,
                              Call(*jobs_, &Jobs::ListCheckpoints, list));
  ASSERT_THAT(checkpoints.checkpoints(), SizeIs(1));
  EXPECT_EQ(checkpoints.checkpoints(0).name(), job.name() + "/checkpoints/5-g1");

  worker->observed().clear_tasks();
  worker->Sync();
  v1::JobActionRequest resume;
  resume.set_name(job.name());
  resume.set_slots(1);
  ANNEAL_ASSERT_OK(Call(*jobs_, &Jobs::ResumeJob, resume));
  const protocol::TrainTask task = AwaitGeneration(*worker, 2, 1);
  EXPECT_EQ(task.world_size, 1);
  EXPECT_THAT(task.resume_from, SizeIs(1));
}

TEST_F(RecoveryTest, AnotherJobCarriesOnWhatACancelledOneBegan) {
  auto worker = StartWorker("w1", 1);
  const v1::Job first = StartTraining(*worker, 1);
  v1::CreateJobRequest request = NewRequest(1);
  request.set_parent(first.name());
  EXPECT_THAT(Create(request), StatusIs(absl::StatusCode::kFailedPrecondition));
  FakeWorker::Report(*worker->observed().mutable_tasks(0), CheckpointReport(first, 5, 1), 1);
  worker->Sync();
  worker->AwaitDesired([](const internal::Desired& d) {
    return d.tasks_size() == 1 && d.tasks(0).acknowledged_report() == 1;
  });
  ANNEAL_ASSERT_OK(Act(&Jobs::CancelJob, first.name()));
  worker->AwaitTasks(0);
  worker->observed().clear_tasks();
  worker->Sync();
  AwaitState(first.name(), v1::JOB_STATE_CANCELLED);

  request.mutable_spec()->mutable_training()->set_epochs(77);
  EXPECT_THAT(Create(request), StatusIs(absl::StatusCode::kInvalidArgument));
  request.mutable_spec()->clear_training();
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Job second, Create(request));
  EXPECT_EQ(second.parent(), first.name());
  FinishPrepare(*worker);
  worker->observed().clear_tasks();
  worker->Sync();
  const protocol::TrainTask task = AwaitGeneration(*worker, 1, 1);
  ASSERT_THAT(task.resume_from, SizeIs(1));
  EXPECT_EQ(task.resume_from[0].dir, first.name() + "/checkpoints/5-g1");
  v1::DeleteJobRequest remove;
  remove.set_name(first.name());
  EXPECT_THAT(Call(*jobs_, &Jobs::DeleteJob, remove),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("starts from")));
}

TEST_F(RecoveryTest, PrepareOfALostWorkerStartsAgain) {
  options_.fleet.lease = absl::Milliseconds(500);
  options_.fleet.start_grace = absl::ZeroDuration();
  StartCoordinator();
  auto worker = StartWorker("w1", 1);
  absl::StatusOr<v1::Job> job = Create(NewRequest(1));
  ANNEAL_ASSERT_OK(job);
  worker->AwaitTasks(1);
  worker->Disappear();
  // The prepare task is tried again; without a worker the job waits and says why.
  AwaitJob(job->name(), [](const v1::Job& j) {
    return j.state_message() == "needs a prepare slot, 0 free, worker w1 away";
  });
  auto back = StartWorker("w1", 1, /*incarnation=*/2);
  back->AwaitTasks(1);
  v1::ListWorkersRequest list;
  ANNEAL_ASSERT_OK_AND_ASSIGN(v1::ListWorkersResponse workers,
                              Call(*cluster_, &v1::ClusterService::Stub::ListWorkers, list));
  ASSERT_THAT(workers.workers(), SizeIs(1));
  EXPECT_EQ(workers.workers(0).state(), v1::Worker::STATE_READY);
}

TEST_F(RecoveryTest, TrainingOnALostWorkerGoesOnWhenOneIsThere) {
  options_.fleet.lease = absl::Milliseconds(500);
  options_.fleet.start_grace = absl::ZeroDuration();
  StartCoordinator();
  auto worker = StartWorker("w1", 1);
  const v1::Job job = StartTraining(*worker, 1);
  worker->Disappear();
  const v1::Job waiting = AwaitState(job.name(), v1::JOB_STATE_RECOVERING);
  EXPECT_EQ(waiting.failures().infrastructure(), 1);
  auto other = StartWorker("w2", 1);
  EXPECT_EQ(AwaitGeneration(*other, 2, 1).job, job.name().substr(5));
}

TEST_F(RecoveryTest, ADrainedWorkerGetsNothingNewAndStaysDrained) {
  auto worker = StartWorker("w1", 1);
  v1::DrainWorkerRequest request;
  request.set_name("workers/w1");
  ANNEAL_ASSERT_OK_AND_ASSIGN(v1::Worker drained,
                              Call(*cluster_, &v1::ClusterService::Stub::DrainWorker, request));
  EXPECT_EQ(drained.state(), v1::Worker::STATE_DRAINING);
  worker->AwaitDesired([](const internal::Desired& d) { return d.draining(); });
  StartCoordinator();
  auto again = StartWorker("w1", 1);
  again->AwaitDesired([](const internal::Desired& d) { return d.draining(); });
  ANNEAL_ASSERT_OK_AND_ASSIGN(v1::Job job, Create(NewRequest(1)));
  AwaitJob(job.name(), [](const v1::Job& j) {
    return j.state() == v1::JOB_STATE_PENDING &&
           j.state_message() == "needs a prepare slot, 0 free, worker w1 draining";
  });
  v1::UndrainWorkerRequest undrain;
  undrain.set_name("workers/w1");
  ANNEAL_ASSERT_OK(Call(*cluster_, &v1::ClusterService::Stub::UndrainWorker, undrain));
  again->AwaitTasks(1);
  undrain.set_name("workers/nobody");
  EXPECT_THAT(Call(*cluster_, &v1::ClusterService::Stub::UndrainWorker, undrain),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(RecoveryTest, AFullDiskRefusesNewJobsAndServesTheRest) {
  auto worker = StartWorker("w1", 1);
  const v1::Job job = StartTraining(*worker, 1);
  worker->Disappear();
  options_.min_free_bytes = std::numeric_limits<int64_t>::max();
  StartCoordinator();
  EXPECT_THAT(Create(NewRequest(1)),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("--min-free")));
  ANNEAL_EXPECT_OK(Get(job.name()));
  EXPECT_FALSE(Events(job.name()).empty());
  auto again = StartWorker("w1", 1);
  AwaitGeneration(*again, 2, 1);
  v1::GetStorageRequest request;
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Storage storage,
                              Call(*cluster_, &v1::ClusterService::Stub::GetStorage, request));
  EXPECT_GT(storage.kinds_size(), 5);
}

}  // namespace
}  // namespace anneal
