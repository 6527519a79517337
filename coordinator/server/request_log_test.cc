// What a call has caused can be found by its request id: in the log, in the audit log, in answers.

#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "anneal/v1/key_service.grpc.pb.h"
#include "common/base/log_format.h"
#include "common/format/json.h"
#include "common/rpc/request_id.h"
#include "coordinator/server/testing/coordinator_fixture.h"

namespace anneal {
namespace {

using testing::kKey;
using testing::StatusIs;

class RequestLogTest : public testing::CoordinatorFixture {
 protected:
  void SetUp() override {
    ANNEAL_ASSERT_OK(SetUpLogs({.format = "json"}));
    ::testing::internal::CaptureStderr();
    CoordinatorFixture::SetUp();
  }
  void TearDown() override {
    Logged("");  // no capture stays open
    CoordinatorFixture::TearDown();
    ANNEAL_EXPECT_OK(SetUpLogs({}));
  }

  // Calls with the id as metadata.
  template <typename Stub, typename Request, typename Response>
  absl::Status CallAs(const std::string& id, Stub& stub,
                      grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                      const Request& request, Response* response) {
    grpc::ClientContext context;
    PrepareCall(context, kKey, absl::Seconds(30));
    context.AddMetadata(kRequestIdKey, id);
    return FromGrpcStatus((stub.*method)(&context, request, response));
  }
  // Stops the coordinator. The fields of each line with that message, in order.
  std::vector<std::map<std::string, std::string>> Logged(const std::string& message) {
    if (log_.empty()) {
      coordinator_.reset();
      log_ = ::testing::internal::GetCapturedStderr();
    }
    std::vector<std::map<std::string, std::string>> lines;
    for (absl::string_view text : absl::StrSplit(log_, '\n', absl::SkipEmpty())) {
      const absl::StatusOr<Json> line = ParseJson(text);
      EXPECT_TRUE(line.ok()) << text;
      if (line.ok() && line->at("msg") == message)
        lines.push_back(line->get<std::map<std::string, std::string>>());
    }
    return lines;
  }

  std::string log_;
};

TEST_F(RequestLogTest, LinesAboutAJobNameTheCallThatCausedThem) {
  v1::Job job;
  ANNEAL_ASSERT_OK(CallAs("create-1", *jobs_, &Jobs::CreateJob, NewRequest(1, "mine"), &job));
  // Repeated: it makes nothing.
  ANNEAL_ASSERT_OK(CallAs("create-2", *jobs_, &Jobs::CreateJob, NewRequest(1, "mine"), &job));
  // The message's own id, where none comes as metadata.
  ANNEAL_ASSERT_OK(Act(&Jobs::CancelJob, job.name(), "cancel-1").status());
  v1::DeleteJobRequest deletion;
  deletion.set_name(job.name());
  google::protobuf::Empty nothing;
  ANNEAL_ASSERT_OK(CallAs("delete-1", *jobs_, &Jobs::DeleteJob, deletion, &nothing));

  const std::string id = job.name().substr(5);
  const auto created = Logged("job created");
  ASSERT_EQ(created.size(), 1u);
  EXPECT_EQ(created[0].at("job"), id);
  EXPECT_EQ(created[0].at("request_id"), "create-1");
  const auto changed = Logged("job state changed");
  ASSERT_EQ(changed.size(), 2u);
  EXPECT_EQ(changed[0].at("to"), "CANCELLING");
  EXPECT_EQ(changed[1].at("to"), "CANCELLED");
  for (const auto& line : changed) EXPECT_EQ(line.at("request_id"), "cancel-1");
  const auto deleted = Logged("job deleted");
  ASSERT_EQ(deleted.size(), 1u);
  EXPECT_EQ(deleted[0].at("job"), id);
  EXPECT_EQ(deleted[0].at("request_id"), "delete-1");
}

TEST_F(RequestLogTest, WhatHappensByItselfNamesNoCall) {
  auto worker = StartWorker("w0", 1);
  v1::Job job;
  ANNEAL_ASSERT_OK(CallAs("create-1", *jobs_, &Jobs::CreateJob, NewRequest(1), &job));
  AwaitJob(job.name(), [](const v1::Job& now) { return now.state() == v1::JOB_STATE_PREPARING; });
  worker.reset();
  const auto changed = Logged("job state changed");
  ASSERT_FALSE(changed.empty());
  for (const auto& line : changed) EXPECT_EQ(line.count("request_id"), 0u) << line.at("to");
}

TEST_F(RequestLogTest, WorkersAndKeysDoToo) {
  auto worker = StartWorker("w0", 1);
  v1::DrainWorkerRequest drain;
  drain.set_name("workers/w0");
  v1::Worker drained;
  ANNEAL_ASSERT_OK(
      CallAs("drain-1", *cluster_, &v1::ClusterService::Stub::DrainWorker, drain, &drained));
  const auto keys = v1::KeyService::NewStub(channel_);
  v1::CreateKeyRequest wanted;
  wanted.set_project("vision");
  wanted.set_creator("bob");
  wanted.set_role(v1::Key::ROLE_USER);
  v1::CreateKeyResponse key;
  ANNEAL_ASSERT_OK(CallAs("key-1", *keys, &v1::KeyService::Stub::CreateKey, wanted, &key));
  v1::RevokeKeyRequest revocation;
  revocation.set_name(key.key().name());
  v1::Key revoked;
  ANNEAL_ASSERT_OK(CallAs("key-2", *keys, &v1::KeyService::Stub::RevokeKey, revocation, &revoked));
  worker.reset();
  for (const auto& [message, id] :
       std::map<std::string, std::string>{{"worker drained", "drain-1"},
                                          {"API key made", "key-1"},
                                          {"API key revoked", "key-2"}}) {
    const auto lines = Logged(message);
    ASSERT_EQ(lines.size(), 1u) << message;
    EXPECT_EQ(lines[0].at("request_id"), id) << message;
  }
}

TEST_F(RequestLogTest, ErrorsAndTheAuditLogNameTheCall) {
  v1::JobActionRequest request;
  request.set_name("jobs/01hf7yat00abcdefghjkmnpqrs");
  v1::Job job;
  const absl::Status refused = CallAs("cancel-1", *jobs_, &Jobs::CancelJob, request, &job);
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(RequestIdOf(refused), "cancel-1");
  EXPECT_THAT(Act(&Jobs::CancelJob, request.name()), StatusIs(absl::StatusCode::kNotFound));
  Logged("");
  std::ifstream file(options_.data_dir + "/audit.log");
  std::vector<std::string> ids;
  for (std::string line; std::getline(file, line);) ids.push_back((*ParseJson(line))["request_id"]);
  ASSERT_EQ(ids.size(), 2u);
  EXPECT_EQ(ids[0], "cancel-1");
  EXPECT_TRUE(IsUlid(ids[1])) << "made by the coordinator: " << ids[1];
}

}  // namespace
}  // namespace anneal
