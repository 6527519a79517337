#pragma once
// A whole coordinator in this process, on free ports and in a temporary folder, with a client for
// it.

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "anneal/v1/cluster_service.grpc.pb.h"
#include "anneal/v1/fine_tuning_service.grpc.pb.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/base/sha256.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "common/format/testing/tiny_llama.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "common/storage/layout.h"
#include "coordinator/server/coordinator.h"
#include "coordinator/server/testing/fake_worker.h"

namespace anneal::testing {

inline constexpr char kKey[] = "ada-key-0123456789abcdef";       // project "vision"
inline constexpr char kOtherKey[] = "eve-key-0123456789abcdef";  // project "other"

class CoordinatorFixture : public ::testing::Test {
 protected:
  using Jobs = v1::FineTuningService::Stub;

  void SetUp() override {
    std::ofstream(folder_ + "/credentials") << kKey << " vision ada admin\n"
                                            << kOtherKey << " other eve\n";
    std::filesystem::permissions(folder_ + "/credentials", std::filesystem::perms::owner_read);
    WriteTinyLlama(folder_ + "/shared/tiny");
    std::ofstream(folder_ + "/shared/train.jsonl") << "{}\n";
    options_.listen = {"127.0.0.1:0"};
    options_.fleet_listen = "127.0.0.1:0";
    options_.admin_listen = "";
    options_.data_dir = folder_ + "/data";
    options_.storage_root = folder_ + "/storage";
    options_.allowed_roots = {folder_ + "/shared"};
    options_.credentials_file = folder_ + "/credentials";
    options_.admin_socket = folder_ + "/admin.sock";
    // Tests call as fast as they can.
    options_.limits.key_request_rate = 0;
    options_.limits.project_request_rate = 0;
    options_.limits.failed_authentication_rate = 0;
    StartCoordinator();
  }
  void TearDown() override { coordinator_.reset(); }

  void StartCoordinator() {
    coordinator_.reset();
    ANNEAL_ASSERT_OK_AND_ASSIGN(coordinator_, Coordinator::Start(options_, Clock::Real(), random_));
    channel_ = *MakeChannel({.target = coordinator_->api_addresses().front()});
    jobs_ = v1::FineTuningService::NewStub(channel_);
    cluster_ = v1::ClusterService::NewStub(channel_);
  }

  // A worker that the coordinator knows when this returns.
  std::unique_ptr<FakeWorker> StartWorker(const std::string& name, int cpu_slots,
                                          int64_t incarnation = 1) {
    auto worker = std::make_unique<FakeWorker>(coordinator_->fleet_address(), kKey, name, cpu_slots,
                                               incarnation);
    worker->Sync();
    worker->AwaitDesired(
        [](const internal::Desired& desired) { return desired.coordinator_epoch() > 0; });
    return worker;
  }

  template <typename Stub, typename Request, typename Response>
  static absl::StatusOr<Response> Call(Stub& stub,
                                       grpc::Status (Stub::*method)(grpc::ClientContext*,
                                                                    const Request&, Response*),
                                       const Request& request, const char* key = kKey) {
    grpc::ClientContext context;
    PrepareCall(context, key, absl::Seconds(30));
    Response response;
    const absl::Status status = FromGrpcStatus((stub.*method)(&context, request, &response));
    if (!status.ok()) return status;
    return response;
  }

  v1::CreateJobRequest NewRequest(int slots, const std::string& request_id = "") {
    v1::CreateJobRequest request;
    request.set_request_id(request_id);
    v1::JobSpec& spec = *request.mutable_spec();
    spec.set_model(absl::StrCat("file://", folder_, "/shared/tiny"));
    spec.mutable_data()->add_train(absl::StrCat("file://", folder_, "/shared/train.jsonl"));
    spec.mutable_resources()->set_slots(slots);
    spec.mutable_resources()->set_accelerator(v1::ResourceSpec::ACCELERATOR_CPU);
    (*spec.mutable_labels())["team"] = "vision";
    (*spec.mutable_labels())["ticket"] = "42";
    return request;
  }
  absl::StatusOr<v1::Job> Create(const v1::CreateJobRequest& request, const char* key = kKey) {
    return Call(*jobs_, &Jobs::CreateJob, request, key);
  }
  absl::StatusOr<v1::Job> Get(const std::string& name, const char* key = kKey) {
    v1::GetJobRequest request;
    request.set_name(name);
    return Call(*jobs_, &Jobs::GetJob, request, key);
  }
  absl::StatusOr<v1::Job> Act(grpc::Status (Jobs::*method)(grpc::ClientContext*,
                                                           const v1::JobActionRequest&, v1::Job*),
                              const std::string& name, const std::string& request_id = "") {
    v1::JobActionRequest request;
    request.set_name(name);
    request.set_request_id(request_id);
    return Call(*jobs_, method, request);
  }
  std::vector<v1::JobEvent> Events(const std::string& name) {
    v1::ListJobEventsRequest request;
    request.set_name(name);
    request.set_page_size(1000);
    absl::StatusOr<v1::ListJobEventsResponse> response =
        Call(*jobs_, &Jobs::ListJobEvents, request);
    EXPECT_THAT(response, IsOk());
    return {response->events().begin(), response->events().end()};
  }
  // Watches the job until `condition` holds; fails the test after 20 s.
  v1::Job AwaitJob(const std::string& name, const std::function<bool(const v1::Job&)>& condition) {
    grpc::ClientContext context;
    PrepareCall(context, kKey, absl::Seconds(20));
    v1::WatchJobRequest request;
    request.set_name(name);
    auto stream = jobs_->WatchJob(&context, request);
    v1::Job last;
    for (v1::WatchJobResponse message; stream->Read(&message);) {
      if (message.has_progress()) *last.mutable_progress() = message.progress();
      if (message.has_snapshot()) last = message.snapshot();
      if (!condition(last)) continue;
      context.TryCancel();
      return last;
    }
    ADD_FAILURE() << "the job did not come so far: " << last.ShortDebugString();
    return last;
  }
  v1::Job AwaitState(const std::string& name, v1::JobState state) {
    return AwaitJob(name, [state](const v1::Job& job) { return job.state() == state; });
  }

  // Drives a new job on `worker` up to running trainers; returns it.
  v1::Job StartTraining(FakeWorker& worker, int slots) {
    absl::StatusOr<v1::Job> job = Create(NewRequest(slots));
    EXPECT_THAT(job, IsOk());
    FinishPrepare(worker);
    const internal::Desired desired = worker.AwaitDesired([slots](const internal::Desired& wanted) {
      return wanted.tasks_size() == slots &&
             wanted.tasks(0).id().kind() == internal::TaskId::KIND_TRAIN;
    });
    worker.observed().clear_tasks();
    for (const internal::DesiredTask& task : desired.tasks()) worker.Run(task).set_phase("train");
    worker.observed().mutable_tasks(0)->set_rendezvous("127.0.0.1:4000");
    worker.Sync();
    return AwaitState(job->name(), v1::JOB_STATE_RUNNING);
  }
  static void FinishPrepare(FakeWorker& worker) {
    const internal::Desired desired = worker.AwaitTasks(1);
    EXPECT_EQ(desired.tasks(0).id().kind(), internal::TaskId::KIND_PREPARE);
    protocol::Report report;
    report.prepared = protocol::PreparedReport{.train_data = "blobs/prepared/x/train.safetensors",
                                               .train_rows = 10};
    FakeWorker::Report(worker.Run(desired.tasks(0)), report, 1);
    worker.Sync();
  }
  // Waits for the trainers of a generation; returns the task of rank 0.
  static protocol::TrainTask AwaitGeneration(FakeWorker& worker, int64_t generation, int slots) {
    const internal::Desired desired = worker.AwaitDesired([&](const internal::Desired& wanted) {
      return wanted.tasks_size() == slots &&
             wanted.tasks(0).id().kind() == internal::TaskId::KIND_TRAIN &&
             wanted.tasks(0).id().generation() == generation;
    });
    absl::StatusOr<Json> json = ParseJson(desired.tasks(0).task_json());
    EXPECT_THAT(json, IsOk());
    absl::StatusOr<protocol::TrainTask> task = protocol::TrainTaskFromJson(*json);
    EXPECT_THAT(task, IsOk());
    return *task;
  }
  static protocol::Report CheckpointReport(const v1::Job& job, int64_t step, int64_t generation) {
    protocol::Report report;
    report.checkpoint = protocol::CheckpointReport{
        .step = step,
        .dir = absl::StrCat(job.name(), "/checkpoints/", step, "-g", generation),
        .manifest_sha256 = "ab",
        .bytes = 100};
    return report;
  }
  static protocol::Report StepReport(int64_t step) {
    protocol::Report report;
    report.step = protocol::StepReport{.step = step,
                                       .total_steps = 3,
                                       .train_loss = 2.0 / step,
                                       .tokens = 100,
                                       .supervised_tokens = 40,
                                       .step_seconds = 0.5};
    return report;
  }
  // Where a generation's outputs lie until they are the job's.
  std::string StagedOutputs(const internal::TaskId& task) const {
    return absl::StrCat(options_.storage_root, "/",
                        StagedOutputPath(task.job(), task.generation()));
  }
  // Of 100 bytes beside its own.
  static std::string ManifestOf(int64_t generation) {
    return absl::StrCat(R"({"generation": )", generation,
                        R"(, "files": [{"path": "adapter/weights", "bytes": 100}]})");
  }
  // Rank 0 leaves its outputs and says so.
  void ReportResult(internal::TaskObservation& task, int64_t sequence) {
    const std::string folder = StagedOutputs(task.id());
    std::filesystem::create_directories(folder);
    const std::string manifest = ManifestOf(task.id().generation());
    std::ofstream(folder + "/manifest.json") << manifest;
    protocol::Report report;
    report.result = protocol::ResultReport{.primary = "adapter",
                                           .manifest_sha256 = Sha256Hex(manifest),
                                           .first_loss = 2,
                                           .last_loss = 1};
    FakeWorker::Report(task, report, sequence);
  }

  const TempDir dir_;
  const std::string& folder_ = dir_.path();
  SeededRandom random_{1};
  CoordinatorOptions options_;
  std::unique_ptr<Coordinator> coordinator_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<Jobs> jobs_;
  std::unique_ptr<v1::ClusterService::Stub> cluster_;
};

}  // namespace anneal::testing
