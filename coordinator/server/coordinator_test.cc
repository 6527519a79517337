// The coordinator over real gRPC, with workers whose every word the test says.

#include "coordinator/server/coordinator.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/base/thread.h"
#include "common/metrics/testing/http_get.h"
#include "coordinator/catalog/schema.h"
#include "coordinator/server/testing/coordinator_fixture.h"
#include "google/rpc/error_details.pb.h"

namespace anneal {
namespace {

using ::anneal::testing::FakeWorker;
using ::anneal::testing::IsOk;
using ::anneal::testing::kOtherKey;
using ::anneal::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class CoordinatorTest : public testing::CoordinatorFixture {
 protected:
  absl::StatusOr<v1::ListStepMetricsResponse> Steps(const std::string& name) {
    v1::ListStepMetricsRequest request;
    request.set_name(name);
    return Call(*jobs_, &Jobs::ListStepMetrics, request);
  }
};

TEST_F(CoordinatorTest, AJobRunsFromSubmitToResult) {
  auto worker = StartWorker("w1", 2);
  ANNEAL_ASSERT_OK_AND_ASSIGN(v1::Job job, Create(NewRequest(2)));
  EXPECT_EQ(job.project(), "vision");
  EXPECT_EQ(job.creator(), "ada");
  EXPECT_EQ(job.resolved().model_content_hash().size(), 64u);
  FinishPrepare(*worker);

  internal::Desired desired = worker->AwaitTasks(2);
  ANNEAL_ASSERT_OK_AND_ASSIGN(Json json, ParseJson(desired.tasks(1).task_json()));
  ANNEAL_ASSERT_OK_AND_ASSIGN(protocol::TrainTask task, protocol::TrainTaskFromJson(json));
  EXPECT_EQ(task.rank, 1);
  EXPECT_EQ(task.world_size, 2);
  EXPECT_EQ(task.generation, 1);
  EXPECT_EQ(task.threads, 2);
  EXPECT_EQ(task.model_dir, std::filesystem::canonical(folder_ + "/shared/tiny").string());
  EXPECT_EQ(task.train_data, "blobs/prepared/x/train.safetensors");
  EXPECT_EQ(task.schedule, "COSINE");
  EXPECT_EQ(task.precision, "FP32");
  EXPECT_THAT(desired.tasks(0).slot_ids(), ElementsAre("cpu0"));
  EXPECT_THAT(desired.tasks(1).slot_ids(), ElementsAre("cpu1"));

  worker->observed().clear_tasks();
  internal::TaskObservation* rank0 = &worker->Run(desired.tasks(0));
  worker->Run(desired.tasks(1));
  rank0 = worker->observed().mutable_tasks(0);
  rank0->set_rendezvous("127.0.0.1:4000");
  worker->Sync();
  worker->AwaitDesired([](const internal::Desired& d) {
    return d.tasks_size() == 2 && d.tasks(0).rendezvous().empty() &&
           d.tasks(1).rendezvous() == "127.0.0.1:4000";
  });

  protocol::Report before;
  before.evaluation = protocol::EvaluationReport{.step = 0, .loss = 3.5};
  FakeWorker::Report(*rank0, before, 1);
  for (int step = 1; step <= 3; ++step) FakeWorker::Report(*rank0, StepReport(step), step + 1);
  worker->Sync();
  worker->AwaitDesired([](const internal::Desired& d) {
    return d.tasks_size() == 2 && d.tasks(0).acknowledged_report() == 4;
  });
  job = AwaitJob(job.name(), [](const v1::Job& j) { return j.progress().step() == 3; });

  rank0->clear_reports();
  ReportResult(*rank0, 5);
  worker->Sync();
  job = AwaitState(job.name(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(job.output_model(), job.name() + "/artifacts/adapter");
  EXPECT_EQ(job.result().manifest_sha256(), Sha256Hex(ManifestOf(1)));
  EXPECT_EQ(job.result().output_bytes(), 100 + static_cast<int64_t>(ManifestOf(1).size()));
  EXPECT_TRUE(std::filesystem::exists(folder_ + "/storage/outputs/" + job.name().substr(5)));
  EXPECT_EQ(job.progress().validation_loss(), 3.5);
  EXPECT_EQ(job.usage().trained_tokens(), 300);
  worker->AwaitTasks(0);

  ANNEAL_ASSERT_OK_AND_ASSIGN(v1::ListStepMetricsResponse steps, Steps(job.name()));
  ASSERT_THAT(steps.steps(), SizeIs(3));
  EXPECT_EQ(steps.steps(2).tokens_per_second(), 200);
  EXPECT_EQ(steps.before().loss(), 3.5);

  std::vector<std::string> states;
  int64_t sequence = 0;
  for (const v1::JobEvent& event : Events(job.name())) {
    EXPECT_EQ(event.sequence(), ++sequence);
    if (event.has_state_change())
      states.push_back(v1::JobState_Name(event.state_change().to()).substr(10));
  }
  EXPECT_THAT(states, ElementsAre("PENDING", "PREPARING", "QUEUED", "STARTING", "RUNNING",
                                  "EXPORTING", "SUCCEEDED"));
}

TEST_F(CoordinatorTest, WatchShowsASnapshotThenEverythingInOrderAndEnds) {
  auto worker = StartWorker("w1", 1);
  const v1::Job job = StartTraining(*worker, 1);
  internal::TaskObservation& rank0 = *worker->observed().mutable_tasks(0);
  for (int step = 1; step <= 3; ++step) FakeWorker::Report(rank0, StepReport(step), step);
  ReportResult(rank0, 4);
  worker->Sync();

  grpc::ClientContext context;
  PrepareCall(context, testing::kKey, absl::Seconds(20));
  v1::WatchJobRequest request;
  request.set_name(job.name());
  request.set_after_sequence(2);
  request.set_after_step(1);
  auto stream = jobs_->WatchJob(&context, request);
  v1::WatchJobResponse message;
  ASSERT_TRUE(stream->Read(&message));
  EXPECT_TRUE(message.has_snapshot());
  int64_t sequence = 2, step = 1;
  v1::Job last;
  while (stream->Read(&message)) {
    if (message.has_event()) {
      EXPECT_EQ(message.event().sequence(), ++sequence);
    } else if (message.has_step()) {
      EXPECT_EQ(message.step().step(), ++step);
    } else if (message.has_snapshot()) {
      last = message.snapshot();
    }
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(step, 3);
  EXPECT_EQ(last.state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(CoordinatorTest, ARepeatedRequestMakesOneJobAlsoAfterARestart) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Job first, Create(NewRequest(1, "r1")));
  ANNEAL_ASSERT_OK_AND_ASSIGN(v1::Job again, Create(NewRequest(1, "r1")));
  EXPECT_EQ(again.name(), first.name());
  absl::StatusOr<v1::Job> reused = Create(NewRequest(2, "r1"));
  EXPECT_THAT(reused, StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr(first.name())));
  EXPECT_EQ(ReasonOf(reused.status()), "REQUEST_ID_REUSED");
  v1::CreateJobRequest foreign = NewRequest(1, "r1");
  ANNEAL_ASSERT_OK_AND_ASSIGN(v1::Job other, Create(foreign, kOtherKey));
  EXPECT_NE(other.name(), first.name());

  StartCoordinator();
  // The model is gone by now; the repetition does not need it.
  std::filesystem::remove_all(folder_ + "/shared/tiny");
  ANNEAL_ASSERT_OK_AND_ASSIGN(again, Create(NewRequest(1, "r1")));
  EXPECT_EQ(again.name(), first.name());
}

TEST_F(CoordinatorTest, AJobGoesOnAfterTheCoordinatorsRestart) {
  auto worker = StartWorker("w1", 1);
  const v1::Job job = StartTraining(*worker, 1);
  internal::Observed observed = worker->observed();
  internal::TaskObservation& before = *worker->observed().mutable_tasks(0);
  for (int step = 1; step <= 2; ++step) FakeWorker::Report(before, StepReport(step), step);
  worker->Sync();
  const internal::Desired acknowledged = worker->AwaitDesired([](const internal::Desired& d) {
    return d.tasks_size() == 1 && d.tasks(0).acknowledged_report() == 2;
  });
  StartCoordinator();

  // The same task, the reports after the acknowledged ones, and one that is sent twice.
  FakeWorker again(coordinator_->fleet_address(), testing::kKey, "w1", 1);
  again.observed() = observed;
  internal::TaskObservation& after = *again.observed().mutable_tasks(0);
  FakeWorker::Report(after, StepReport(2), 2);
  FakeWorker::Report(after, StepReport(3), 3);
  again.Sync();
  const internal::Desired desired = again.AwaitDesired([](const internal::Desired& d) {
    return d.tasks_size() == 1 && d.tasks(0).acknowledged_report() == 3;
  });
  EXPECT_GT(desired.coordinator_epoch(), acknowledged.coordinator_epoch());
  EXPECT_EQ(desired.tasks(0).task_json(), acknowledged.tasks(0).task_json())
      << "a task never changes within a generation";
  after.clear_reports();
  ReportResult(after, 4);
  again.Sync();
  const v1::Job done = AwaitState(job.name(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(done.generation(), 1);
  EXPECT_EQ(done.usage().trained_tokens(), 300);
  ANNEAL_ASSERT_OK_AND_ASSIGN(v1::ListStepMetricsResponse steps, Steps(job.name()));
  EXPECT_THAT(steps.steps(), SizeIs(3));
}

TEST_F(CoordinatorTest, CancellingStopsTheProcessesFirst) {
  auto worker = StartWorker("w1", 2);
  const v1::Job job = StartTraining(*worker, 2);
  ANNEAL_ASSERT_OK_AND_ASSIGN(v1::Job cancelling, Act(&Jobs::CancelJob, job.name(), "c1"));
  EXPECT_EQ(cancelling.state(), v1::JOB_STATE_CANCELLING);
  worker->AwaitTasks(0);
  // The slots are not given away while the processes are still there.
  ANNEAL_ASSERT_OK_AND_ASSIGN(v1::Job next, Create(NewRequest(2)));
  FinishPrepare(*worker);
  // The plan after the one that has found it waiting says why.
  AwaitJob(next.name(), [](const v1::Job& j) {
    return j.state() == v1::JOB_STATE_QUEUED &&
           j.state_message() == "needs 2 CPU slots, 0 free, others make room";
  });
  worker->observed().clear_tasks();
  worker->Sync();
  AwaitState(job.name(), v1::JOB_STATE_CANCELLED);
  AwaitState(next.name(), v1::JOB_STATE_STARTING);
  ANNEAL_ASSERT_OK_AND_ASSIGN(v1::Job again, Act(&Jobs::CancelJob, job.name(), "c1"));
  EXPECT_EQ(again.state(), v1::JOB_STATE_CANCELLED);
}

TEST_F(CoordinatorTest, AHeldJobIsShownAndStartedByResume) {
  auto worker = StartWorker("w1", 1);
  v1::CreateJobRequest request = NewRequest(1);
  request.set_hold_after_validation(true);
  ANNEAL_ASSERT_OK_AND_ASSIGN(v1::Job job, Create(request));
  FinishPrepare(*worker);
  job = AwaitState(job.name(), v1::JOB_STATE_VALIDATED);
  EXPECT_EQ(job.data().train_rows(), 10);
  EXPECT_THAT(Act(&Jobs::FinishJob, job.name()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("VALIDATED")));
  EXPECT_THAT(Act(&Jobs::PauseJob, job.name()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("VALIDATED")));
  ANNEAL_ASSERT_OK(Act(&Jobs::ResumeJob, job.name(), "go"));
  AwaitState(job.name(), v1::JOB_STATE_STARTING);
  ANNEAL_EXPECT_OK(Act(&Jobs::ResumeJob, job.name(), "go"));
}

TEST_F(CoordinatorTest, FinishTellsTheTrainersToExport) {
  auto worker = StartWorker("w1", 1);
  const v1::Job job = StartTraining(*worker, 1);
  ANNEAL_ASSERT_OK(Act(&Jobs::FinishJob, job.name()));
  worker->AwaitDesired([](const internal::Desired& d) {
    return d.tasks_size() == 1 && d.tasks(0).action() == internal::DesiredTask::ACTION_FINISH;
  });
}

TEST_F(CoordinatorTest, EveryFaultOfASpecIsNamedAtOnce) {
  v1::CreateJobRequest request = NewRequest(1);
  request.mutable_spec()->set_model("models/none");
  request.mutable_spec()->mutable_data()->add_train("file:///etc/passwd");
  request.mutable_spec()->mutable_training()->set_batch_size(0);
  absl::StatusOr<v1::Job> refused = Create(request);
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(ReasonOf(refused.status()), "BAD_SPEC");
  std::vector<std::string> fields;
  for (const FieldViolation& violation : FieldViolationsOf(refused.status()))
    fields.push_back(violation.field);
  EXPECT_THAT(fields, ::testing::UnorderedElementsAre("spec.model", "spec.data.train[1]",
                                                      "spec.training.batch_size"));

  v1::CheckJobRequest check;
  *check.mutable_spec() = request.spec();
  ANNEAL_ASSERT_OK_AND_ASSIGN(v1::CheckJobResponse checked, Call(*jobs_, &Jobs::CheckJob, check));
  EXPECT_GE(checked.issues_size(), 3);
  ANNEAL_ASSERT_OK_AND_ASSIGN(v1::ListJobsResponse none,
                              Call(*jobs_, &Jobs::ListJobs, v1::ListJobsRequest()));
  EXPECT_THAT(none.jobs(), SizeIs(0)) << "neither has created anything";
}

TEST_F(CoordinatorTest, ProjectsDoNotSeeEachOther) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(v1::Job job, Create(NewRequest(1)));
  EXPECT_THAT(Get(job.name(), kOtherKey), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(Get(job.name(), "no-such-key-0123456789"),
              StatusIs(absl::StatusCode::kUnauthenticated));
  EXPECT_THAT(Get("jobs/../etc"), StatusIs(absl::StatusCode::kInvalidArgument));
  FakeWorker stranger(coordinator_->fleet_address(), "no-such-key-0123456789", "w9", 1);
  EXPECT_THAT(stranger.AwaitEnd(), StatusIs(absl::StatusCode::kUnauthenticated));
}

TEST_F(CoordinatorTest, JobsAreListedNewestFirstInPages) {
  std::vector<std::string> names;
  for (int i = 0; i < 3; ++i) {
    ANNEAL_ASSERT_OK_AND_ASSIGN(v1::Job job, Create(NewRequest(1)));
    names.insert(names.begin(), job.name());
  }
  std::sort(names.rbegin(), names.rend());
  v1::ListJobsRequest request;
  request.set_page_size(2);
  ANNEAL_ASSERT_OK_AND_ASSIGN(v1::ListJobsResponse page, Call(*jobs_, &Jobs::ListJobs, request));
  ASSERT_THAT(page.jobs(), SizeIs(2));
  EXPECT_EQ(page.jobs(0).name(), names[0]);
  request.set_page_token(page.next_page_token());
  ANNEAL_ASSERT_OK_AND_ASSIGN(page, Call(*jobs_, &Jobs::ListJobs, request));
  ASSERT_THAT(page.jobs(), SizeIs(1));
  EXPECT_EQ(page.jobs(0).name(), names[2]);
  EXPECT_EQ(page.next_page_token(), "");
  request.add_states(v1::JOB_STATE_RUNNING);
  EXPECT_THAT(Call(*jobs_, &Jobs::ListJobs, request), StatusIs(absl::StatusCode::kInvalidArgument))
      << "another filter";
}

TEST_F(CoordinatorTest, OnlyAFinishedJobCanBeDeleted) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(v1::Job job, Create(NewRequest(1, "r1")));
  v1::DeleteJobRequest request;
  request.set_name(job.name());
  EXPECT_THAT(Call(*jobs_, &Jobs::DeleteJob, request),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  ANNEAL_ASSERT_OK(Act(&Jobs::CancelJob, job.name()));
  const std::string outputs = folder_ + "/storage/outputs/" + job.name().substr(5);
  std::filesystem::create_directories(outputs);
  ANNEAL_EXPECT_OK(Call(*jobs_, &Jobs::DeleteJob, request));
  EXPECT_THAT(Get(job.name()), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_FALSE(std::filesystem::exists(outputs));
  ANNEAL_ASSERT_OK_AND_ASSIGN(v1::Job next, Create(NewRequest(1, "r1")));
  EXPECT_NE(next.name(), job.name());
}

TEST_F(CoordinatorTest, ALogIsFollowedToTheJobsEnd) {
  auto worker = StartWorker("w1", 1);
  const v1::Job job = StartTraining(*worker, 1);
  const std::string logs = folder_ + "/storage/jobs/" + job.name().substr(5) + "/logs/g1";
  std::filesystem::create_directories(logs);
  std::ofstream(logs + "/rank0.log") << "first\n";

  grpc::ClientContext context;
  PrepareCall(context, testing::kKey, absl::Seconds(20));
  v1::ReadJobLogRequest request;
  request.set_name(job.name());
  request.set_follow(true);
  auto stream = jobs_->ReadJobLog(&context, request);
  v1::LogChunk chunk;
  ASSERT_TRUE(stream->Read(&chunk));
  EXPECT_EQ(chunk.data(), "first\n");
  std::ofstream(logs + "/rank0.log", std::ios::app) << "second\n";
  ReportResult(*worker->observed().mutable_tasks(0), 1);
  worker->Sync();
  std::string rest;
  while (stream->Read(&chunk)) rest += chunk.data();
  EXPECT_EQ(rest, "second\n");
  EXPECT_TRUE(stream->Finish().ok());

  request.set_rank(5);
  grpc::ClientContext second;
  PrepareCall(second, testing::kKey, absl::Seconds(20));
  auto missing = jobs_->ReadJobLog(&second, request);
  EXPECT_FALSE(missing->Read(&chunk));
  EXPECT_THAT(FromGrpcStatus(missing->Finish()), StatusIs(absl::StatusCode::kNotFound));
}

// As a network file system does whose server is away. A pipe without a writer is one.
TEST_F(CoordinatorTest, ALogThatCannotBeReadStallsNoOtherStream) {
  auto worker = StartWorker("w1", 1);
  const v1::Job job = StartTraining(*worker, 1);
  const std::string logs = folder_ + "/storage/jobs/" + job.name().substr(5) + "/logs/g1";
  std::filesystem::create_directories(logs);
  ASSERT_EQ(::mkfifo((logs + "/rank0.log").c_str(), 0600), 0);
  grpc::ClientContext context;
  PrepareCall(context, testing::kKey, absl::Seconds(60));
  v1::ReadJobLogRequest request;
  request.set_name(job.name());
  request.set_follow(true);
  const auto hangs = jobs_->ReadJobLog(&context, request);

  ReportResult(*worker->observed().mutable_tasks(0), 1);
  worker->Sync();
  AwaitJob(job.name(), [](const v1::Job& seen) { return seen.state() == v1::JOB_STATE_SUCCEEDED; });
  // A call that hangs ends when its client wants it to.
  context.TryCancel();
  EXPECT_THAT(FromGrpcStatus(hangs->Finish()), StatusIs(absl::StatusCode::kCancelled));
  // It comes back. Open for reading, too: the call may have gone by now, and then a write to nobody
  // is the end of the test (SIGPIPE).
  const UniqueFd pipe(::open((logs + "/rank0.log").c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_EQ(::write(pipe.get(), "comes back", 10), 10);
}

TEST_F(CoordinatorTest, WhatAWorkerRunsOnIsShown) {
  auto worker = StartWorker("w1", 1);
  (*worker->observed().mutable_software())["kernel"] = "6.1.0";
  worker->Sync();
  std::map<std::string, std::string> shown;
  while (shown.empty()) {
    const absl::StatusOr<v1::ListWorkersResponse> listed =
        Call(*cluster_, &v1::ClusterService::Stub::ListWorkers, v1::ListWorkersRequest());
    ANNEAL_ASSERT_OK(listed);
    shown.insert(listed->workers(0).software().begin(), listed->workers(0).software().end());
  }
  EXPECT_EQ(shown["kernel"], "6.1.0");
}

TEST_F(CoordinatorTest, WorkersAreListedWhileTheyChange) {
  auto worker = StartWorker("w1", 1);
  constexpr int kChanges = 300;
  const Thread lister("lister", [this] {
    std::string kernel;
    while (kernel != absl::StrCat(kChanges)) {
      const absl::StatusOr<v1::ListWorkersResponse> listed =
          Call(*cluster_, &v1::ClusterService::Stub::ListWorkers, v1::ListWorkersRequest());
      ANNEAL_ASSERT_OK(listed);
      const auto& software = listed->workers(0).software();
      kernel = software.count("kernel") > 0 ? software.at("kernel") : "";
    }
  });
  for (int change = 1; change <= kChanges; ++change) {
    (*worker->observed().mutable_software())["kernel"] = absl::StrCat(change);
    worker->Sync();
  }
}

TEST_F(CoordinatorTest, OlderIncarnationsAndNewerEpochsAreRefused) {
  auto worker = StartWorker("w1", 1, /*incarnation=*/5);
  FakeWorker old(coordinator_->fleet_address(), testing::kKey, "w1", 1, /*incarnation=*/4);
  old.Sync();
  EXPECT_THAT(old.AwaitEnd(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("incarnation 4")));
  FakeWorker wiser(coordinator_->fleet_address(), testing::kKey, "w2", 1);
  const int64_t future = absl::ToUnixMicros(absl::Now() + absl::Hours(1));
  wiser.observed().set_coordinator_epoch(future);
  wiser.Sync();
  EXPECT_THAT(wiser.AwaitEnd(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(absl::StrCat(future))));
  FakeWorker nameless(coordinator_->fleet_address(), testing::kKey, "W 3", 1);
  nameless.Sync();
  EXPECT_THAT(nameless.AwaitEnd(), StatusIs(absl::StatusCode::kInvalidArgument));
  auto newer = StartWorker("w1", 1, /*incarnation=*/6);
  EXPECT_THAT(worker->AwaitEnd(), StatusIs(absl::StatusCode::kAborted)) << "one stream per worker";
}

TEST_F(CoordinatorTest, ATurnThatCannotBeCommittedIsDroppedAndMadeAgain) {
  auto worker = StartWorker("w1", 1);
  const v1::Job job = StartTraining(*worker, 1);
  ANNEAL_ASSERT_OK_AND_ASSIGN(Database catalog, OpenCatalogDatabase(options_.data_dir));
  ANNEAL_ASSERT_OK(catalog.Execute("ALTER TABLE job_events RENAME TO out_of_reach"));
  EXPECT_THAT(Create(NewRequest(1, "r1")), StatusIs(absl::StatusCode::kUnavailable));
  ReportResult(*worker->observed().mutable_tasks(0), 1);
  worker->Sync();
  // The answer comes from a turn after the one that has dropped the report.
  EXPECT_THAT(Create(NewRequest(1, "r1")), StatusIs(absl::StatusCode::kUnavailable));
  ANNEAL_ASSERT_OK_AND_ASSIGN(v1::Job same, Get(job.name()));
  EXPECT_EQ(same.state(), v1::JOB_STATE_RUNNING);

  ANNEAL_ASSERT_OK(catalog.Execute("ALTER TABLE out_of_reach RENAME TO job_events"));
  ANNEAL_EXPECT_OK(Create(NewRequest(1, "r1")));
  // Workers say everything again.
  worker->Sync();
  AwaitState(job.name(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(CoordinatorTest, ProbesTellWhetherDecisionsCanBeKept) {
  options_.admin_listen = "127.0.0.1:0";
  StartCoordinator();
  const std::string admin = coordinator_->admin_address();
  EXPECT_THAT(testing::HttpGet(admin, "GET /livez"), HasSubstr("200 OK"));
  EXPECT_THAT(testing::HttpGet(admin, "GET /readyz"), HasSubstr("200 OK"));
  ANNEAL_ASSERT_OK_AND_ASSIGN(Database catalog, OpenCatalogDatabase(options_.data_dir));
  ANNEAL_ASSERT_OK(catalog.Execute("ALTER TABLE jobs RENAME TO out_of_reach"));
  EXPECT_THAT(Create(NewRequest(1)), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(testing::HttpGet(admin, "GET /readyz"), HasSubstr("the catalog cannot be written"));
  EXPECT_THAT(testing::HttpGet(admin, "GET /livez"), HasSubstr("200 OK"));
}

TEST_F(CoordinatorTest, TwoCoordinatorsCannotShareAFolder) {
  EXPECT_THAT(Coordinator::Start(options_, Clock::Real(), random_),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("another coordinator")));
  CoordinatorOptions nested = options_;
  nested.data_dir = options_.storage_root + "/catalog";
  EXPECT_THAT(nested.Complete(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("SQLite")));
}

}  // namespace
}  // namespace anneal
