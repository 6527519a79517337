// The limits of callers and projects, as clients of a whole coordinator meet them.

#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "anneal/v1/file_service.grpc.pb.h"
#include "anneal/v1/key_service.grpc.pb.h"
#include "anneal/v1/model_service.grpc.pb.h"
#include "common/base/sha256.h"
#include "coordinator/server/testing/coordinator_fixture.h"

namespace anneal {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

class LimitsTest : public testing::CoordinatorFixture {
 protected:
  void SetUp() override {
    CoordinatorFixture::SetUp();
    options_.limits = {0, 0, 0, 0, 0, 0, 0, 0};
  }

  static void ExpectRefused(const absl::Status& status, const std::string& reason,
                            const std::string& flag) {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr(flag)));
    EXPECT_EQ(ReasonOf(status), reason);
  }

  absl::StatusOr<v1::File> Upload(const std::string& content, const char* key = testing::kKey) {
    grpc::ClientContext context;
    PrepareCall(context, key, absl::Seconds(30));
    v1::File file;
    const auto stream = v1::FileService::NewStub(channel_)->UploadFile(&context, &file);
    v1::UploadFileRequest message;
    v1::UploadHeader& header = *message.mutable_header();
    header.set_display_name("train.jsonl");
    header.set_size_bytes(static_cast<int64_t>(content.size()));
    header.set_sha256(Sha256Hex(content));
    header.set_upload_id(Sha256Hex(content).substr(0, 32));
    if (stream->Write(message)) {
      message.set_chunk(content);
      stream->Write(message);
      stream->WritesDone();
    }
    const absl::Status status = FromGrpcStatus(stream->Finish());
    if (!status.ok()) return status;
    return file;
  }
  absl::Status DeleteFile(const v1::File& file) {
    v1::DeleteFileRequest request;
    request.set_name(file.name());
    return Call(*v1::FileService::NewStub(channel_), &v1::FileService::Stub::DeleteFile, request)
        .status();
  }
};

TEST_F(LimitsTest, RequestsBeyondTheRateAreRefusedWithATimeToComeBack) {
  options_.limits.key_request_rate = 1;
  StartCoordinator();
  absl::Status status;
  int answered = 0;
  for (; answered < 100; ++answered) {
    status = Call(*jobs_, &Jobs::ListJobs, v1::ListJobsRequest()).status();
    if (!status.ok()) break;
  }
  EXPECT_GE(answered, 5);
  ExpectRefused(status, "KEY_REQUEST_RATE", "--max-key-request-rate");
  ASSERT_TRUE(RetryDelayOf(status).has_value());
  EXPECT_GT(*RetryDelayOf(status), absl::ZeroDuration());
  EXPECT_LE(*RetryDelayOf(status), absl::Seconds(1));
  // Nobody else is held up, a worker of the same key least of all.
  EXPECT_THAT(Call(*jobs_, &Jobs::ListJobs, v1::ListJobsRequest(), testing::kOtherKey), IsOk());
  StartWorker("w1", 1);
}

TEST_F(LimitsTest, CallsThatAreRefusedAnywayCountToo) {
  options_.limits.key_request_rate = 1;
  StartCoordinator();
  // Eve is no admin.
  const auto list_keys = [&] {
    return Call(*v1::KeyService::NewStub(channel_), &v1::KeyService::Stub::ListKeys,
                v1::ListKeysRequest(), testing::kOtherKey)
        .status();
  };
  EXPECT_EQ(ReasonOf(list_keys()), "ROLE_TOO_WEAK");
  absl::Status status;
  for (int i = 0; i < 100 && ReasonOf(status) != "KEY_REQUEST_RATE"; ++i) status = list_keys();
  ExpectRefused(status, "KEY_REQUEST_RATE", "--max-key-request-rate");
}

TEST_F(LimitsTest, CallsWithoutAValidKeyAreHeldBackByHost) {
  options_.limits.failed_authentication_rate = 1;
  StartCoordinator();
  const auto list = [&](const char* key) {
    return Call(*jobs_, &Jobs::ListJobs, v1::ListJobsRequest(), key).status();
  };
  EXPECT_EQ(ReasonOf(list("no-such-key-0123456789")), "API_KEY_UNKNOWN");
  absl::Status status;
  for (int i = 0; i < 100 && !absl::IsResourceExhausted(status); ++i) status = list("");
  ExpectRefused(status, "FAILED_AUTHENTICATION_RATE", "--max-failed-authentication-rate");
  EXPECT_TRUE(RetryDelayOf(status).has_value());
  EXPECT_THAT(list(testing::kKey), IsOk()) << "whoever has a key is not locked out";
  // The fleet's address counts with it.
  testing::FakeWorker stranger(coordinator_->fleet_address(), "no-such-key-0123456789", "w9", 1);
  absl::Status refused = stranger.AwaitEnd();
  for (int i = 0; i < 100 && !absl::IsResourceExhausted(refused); ++i) {
    refused = testing::FakeWorker(coordinator_->fleet_address(), "", "w9", 1).AwaitEnd();
  }
  ExpectRefused(refused, "FAILED_AUTHENTICATION_RATE", "--max-failed-authentication-rate");
  StartWorker("w1", 1);
}

TEST_F(LimitsTest, AProjectHasSoManyStreamsOpenAndNoMore) {
  options_.limits.project_streams = 1;
  StartCoordinator();
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Job job, Create(NewRequest(1)));
  v1::WatchJobRequest watch;
  watch.set_name(job.name());
  grpc::ClientContext context;
  PrepareCall(context, testing::kKey, absl::Seconds(30));
  auto stream = jobs_->WatchJob(&context, watch);
  v1::WatchJobResponse first;
  ASSERT_TRUE(stream->Read(&first));

  grpc::ClientContext second;
  PrepareCall(second, testing::kKey, absl::Seconds(30));
  auto refused = jobs_->WatchJob(&second, watch);
  EXPECT_FALSE(refused->Read(&first));
  ExpectRefused(FromGrpcStatus(refused->Finish()), "PROJECT_STREAMS", "--max-project-streams");
  ExpectRefused(Upload("hello").status(), "PROJECT_STREAMS", "--max-project-streams");
  EXPECT_THAT(Upload("hello", testing::kOtherKey), IsOk());

  // What ends makes room.
  v1::JobActionRequest cancel;
  cancel.set_name(job.name());
  ANNEAL_ASSERT_OK(Call(*jobs_, &Jobs::CancelJob, cancel).status());
  while (stream->Read(&first)) continue;
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_THAT(Upload("hello"), IsOk());
}

TEST_F(LimitsTest, AProjectHasSoManyUnfinishedJobsAndNoMore) {
  options_.limits.project_jobs = 2;
  StartCoordinator();
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Job first, Create(NewRequest(1, "r1")));
  ANNEAL_ASSERT_OK(Create(NewRequest(1, "r2")).status());
  ExpectRefused(Create(NewRequest(1, "r3")).status(), "PROJECT_JOBS", "--max-project-jobs");
  EXPECT_THAT(Create(NewRequest(1, "r1")), IsOk()) << "a repetition makes nothing new";
  EXPECT_THAT(Create(NewRequest(1), testing::kOtherKey), IsOk());
  // Also after a restart, and until one has ended.
  StartCoordinator();
  ExpectRefused(Create(NewRequest(1, "r3")).status(), "PROJECT_JOBS", "--max-project-jobs");
  ANNEAL_ASSERT_OK(Act(&Jobs::CancelJob, first.name()).status());
  AwaitState(first.name(), v1::JOB_STATE_CANCELLED);
  EXPECT_THAT(Create(NewRequest(1, "r3")), IsOk());
  ExpectRefused(Create(NewRequest(1, "r4")).status(), "PROJECT_JOBS", "--max-project-jobs");
}

TEST_F(LimitsTest, ASpecIsSoLargeAndNoLarger) {
  v1::CreateJobRequest request = NewRequest(1);
  for (int i = 0; i < 4000; ++i) {
    request.mutable_spec()->mutable_data()->add_train(
        absl::StrCat("file:///", std::string(100, 'x'), i));
  }
  EXPECT_THAT(Create(request), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("262144")));
  v1::CheckJobRequest check;
  *check.mutable_spec() = request.spec();
  EXPECT_THAT(Call(*jobs_, &Jobs::CheckJob, check),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("262144")));
}

TEST_F(LimitsTest, AProjectUploadsSoMuchAndNoMore) {
  options_.limits.project_upload_bytes = 10;
  StartCoordinator();
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::File first, Upload("123456"));
  ExpectRefused(Upload("78901").status(), "PROJECT_UPLOADS", "--max-project-uploads");
  EXPECT_THAT(Upload("123456"), IsOk()) << "it is there already";
  EXPECT_THAT(Upload("78901", testing::kOtherKey), IsOk());
  EXPECT_THAT(Upload("7890"), IsOk());
  ExpectRefused(Upload("x").status(), "PROJECT_UPLOADS", "--max-project-uploads");
  // What is deleted makes room, also for coming back.
  ANNEAL_ASSERT_OK(DeleteFile(first));
  EXPECT_THAT(Upload("123456"), IsOk());
  ExpectRefused(Upload("x").status(), "PROJECT_UPLOADS", "--max-project-uploads");
}

TEST_F(LimitsTest, AProjectThatIsFullStartsNothing) {
  options_.limits.project_storage_bytes = 6;
  StartCoordinator();
  v1::ImportModelRequest import;
  import.set_model_id("tiny");
  import.set_source_uri(absl::StrCat("file://", folder_, "/shared/tiny"));
  auto models = v1::ModelService::NewStub(channel_);
  ExpectRefused(Call(*models, &v1::ModelService::Stub::ImportModel, import).status(),
                "PROJECT_STORAGE", "--max-project-storage");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Job job, Create(NewRequest(1, "r1")));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::File file, Upload("123456"));
  ExpectRefused(Create(NewRequest(1, "r2")).status(), "PROJECT_STORAGE", "--max-project-storage");
  EXPECT_THAT(Create(NewRequest(1, "r1")), IsOk()) << "a repetition makes nothing new";
  EXPECT_THAT(Create(NewRequest(1), testing::kOtherKey), IsOk());
  ANNEAL_ASSERT_OK(DeleteFile(file));
  EXPECT_THAT(Create(NewRequest(1, "r2")), IsOk());
}

TEST_F(LimitsTest, WhatJobsHaveMadeCounts) {
  options_.limits.project_storage_bytes = 100;
  StartCoordinator();
  auto worker = StartWorker("w1", 1);
  const v1::Job job = StartTraining(*worker, 1);
  EXPECT_THAT(Create(NewRequest(1, "r1")), IsOk());
  ReportResult(*worker->observed().mutable_tasks(0), 1);
  worker->Sync();
  EXPECT_GT(AwaitState(job.name(), v1::JOB_STATE_SUCCEEDED).result().output_bytes(), 100);
  ExpectRefused(Create(NewRequest(1, "r2")).status(), "PROJECT_STORAGE", "--max-project-storage");
  ExpectRefused(Upload("x").status(), "PROJECT_STORAGE", "--max-project-storage");
  EXPECT_THAT(Upload("x", testing::kOtherKey), IsOk());
  // Also after a restart, and until the job goes.
  worker.reset();
  StartCoordinator();
  ExpectRefused(Create(NewRequest(1, "r2")).status(), "PROJECT_STORAGE", "--max-project-storage");
  v1::DeleteJobRequest remove;
  remove.set_name(job.name());
  ANNEAL_ASSERT_OK(Call(*jobs_, &Jobs::DeleteJob, remove).status());
  EXPECT_THAT(Create(NewRequest(1, "r2")), IsOk());
}

}  // namespace
}  // namespace anneal
