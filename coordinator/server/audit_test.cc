// What a whole coordinator writes down of its callers.

#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "anneal/v1/key_service.grpc.pb.h"
#include "common/format/json.h"
#include "coordinator/server/testing/coordinator_fixture.h"
#include "grpcpp/generic/generic_stub.h"

namespace anneal {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using ::testing::Not;
using testing::StatusIs;

class AuditTest : public testing::CoordinatorFixture {
 protected:
  using Keys = v1::KeyService::Stub;

  std::unique_ptr<Keys> LocalKeys() {
    return v1::KeyService::NewStub(*MakeChannel({.target = "unix:" + options_.admin_socket}));
  }
  v1::CreateKeyResponse MakeKey(v1::Key::Role role, const std::string& creator) {
    v1::CreateKeyRequest request;
    request.set_role(role);
    request.set_project("vision");
    request.set_creator(creator);
    absl::StatusOr<v1::CreateKeyResponse> made = Call(*LocalKeys(), &Keys::CreateKey, request, "");
    EXPECT_THAT(made, IsOk());
    return *std::move(made);
  }
  // Of the log, after the coordinator has ended.
  std::vector<Json> StopAndRead() {
    coordinator_.reset();
    std::ifstream file(options_.data_dir + "/audit.log");
    std::vector<Json> lines;
    for (std::string line; std::getline(file, line);) lines.push_back(*ParseJson(line));
    return lines;
  }
  // Calls whatever path with an empty message.
  absl::Status CallPath(const std::string& path, const char* key) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    PrepareCall(context, key, absl::Seconds(30));
    grpc::CompletionQueue queue;
    const grpc::Slice empty;
    grpc::ByteBuffer response;
    const auto call = stub.PrepareUnaryCall(&context, path, grpc::ByteBuffer(&empty, 1), &queue);
    call->StartCall();
    grpc::Status status;
    call->Finish(&response, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    EXPECT_TRUE(queue.Next(&tag, &ok));
    return FromGrpcStatus(status);
  }
};

TEST_F(AuditTest, TellsWhoDidWhat) {
  const v1::CreateKeyResponse viewer = MakeKey(v1::Key::ROLE_VIEWER, "vera");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Job job, Create(NewRequest(1)));
  ANNEAL_ASSERT_OK(Get(job.name()).status());
  EXPECT_THAT(Create(NewRequest(1), viewer.secret().c_str()),
              StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_THAT(Get(job.name(), "no-such-key-0123456789"),
              StatusIs(absl::StatusCode::kUnauthenticated));
  const std::vector<Json> lines = StopAndRead();
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0]["method"], "anneal.v1.KeyService/CreateKey");
  EXPECT_EQ(lines[0]["creator"], "local-admin");
  EXPECT_EQ(lines[0]["resource"], viewer.key().name());
  EXPECT_EQ(lines[0]["detail"], "ROLE_VIEWER of vera in vision");
  EXPECT_EQ(lines[1]["method"], "anneal.v1.FineTuningService/CreateJob");
  EXPECT_EQ(lines[1]["creator"], "ada");
  EXPECT_EQ(lines[1]["project"], "vision");
  EXPECT_EQ(lines[1]["resource"], job.name());
  EXPECT_EQ(lines[1]["code"], "OK");
  EXPECT_EQ(lines[2]["role"], "viewer");
  EXPECT_EQ(lines[2]["code"], "PERMISSION_DENIED");
  EXPECT_EQ(lines[3]["creator"], "");
  EXPECT_EQ(lines[3]["resource"], job.name());
  EXPECT_EQ(lines[3]["code"], "UNAUTHENTICATED");
  for (const Json& line : lines) EXPECT_THAT(DumpJson(line), Not(HasSubstr(viewer.secret())));
}

TEST_F(AuditTest, MadeUpMethodsAndKeysInTheWrongPlaceAreNotWritten) {
  for (const char* path : {"/anneal.v1.Made/Up", "/anneal.v1.KeyService/MadeUp",
                           "/anneal.internal.FleetService/Sync"}) {
    EXPECT_THAT(CallPath(path, ""), StatusIs(absl::StatusCode::kUnimplemented));
  }
  const std::string secret(64, 'f');
  v1::RevokeKeyRequest revoke;
  revoke.set_name("keys/" + secret);
  EXPECT_THAT(Call(*LocalKeys(), &Keys::RevokeKey, revoke, ""),
              StatusIs(absl::StatusCode::kInvalidArgument));
  const std::vector<Json> lines = StopAndRead();
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["method"], "anneal.v1.KeyService/RevokeKey");
  EXPECT_EQ(lines[0]["resource"], "");
}

TEST_F(AuditTest, WhoRevokesTheirOwnKeyIsNamed) {
  const v1::CreateKeyResponse admin = MakeKey(v1::Key::ROLE_ADMIN, "zoe");
  v1::RevokeKeyRequest revoke;
  revoke.set_name(admin.key().name());
  ANNEAL_ASSERT_OK(
      Call(*v1::KeyService::NewStub(channel_), &Keys::RevokeKey, revoke, admin.secret().c_str())
          .status());
  const std::vector<Json> lines = StopAndRead();
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[1]["creator"], "zoe");
  EXPECT_EQ(lines[1]["resource"], admin.key().name());
  EXPECT_EQ(lines[1]["code"], "OK");
}

TEST_F(AuditTest, AJobThatCarriesOnIsNamedAndNotItsParent) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Job parent, Create(NewRequest(1)));
  ANNEAL_ASSERT_OK(Act(&Jobs::CancelJob, parent.name()).status());
  AwaitState(parent.name(), v1::JOB_STATE_CANCELLED);
  v1::CreateJobRequest request = NewRequest(1);
  request.set_parent(parent.name());
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Job child, Create(request));
  request.set_parent("jobs/no-such");
  EXPECT_FALSE(Create(request).ok());
  const std::vector<Json> lines = StopAndRead();
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[1]["resource"], parent.name());
  EXPECT_EQ(lines[2]["resource"], child.name());
  EXPECT_EQ(lines[3]["resource"], "");
}

TEST_F(AuditTest, TheFleetsCallersAndExaminationsAreWrittenToo) {
  ANNEAL_ASSERT_OK(
      Call(*cluster_, &v1::ClusterService::Stub::CheckFleet, v1::CheckFleetRequest()).status());
  StartWorker("w1", 1)->Disappear();
  testing::FakeWorker stranger(coordinator_->fleet_address(), testing::kOtherKey, "w9", 1);
  EXPECT_THAT(stranger.AwaitEnd(), StatusIs(absl::StatusCode::kPermissionDenied));
  std::map<std::string, Json> by_creator;
  const std::vector<Json> lines = StopAndRead();
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0]["method"], "anneal.v1.ClusterService/CheckFleet");
  for (size_t i = 1; i < 3; ++i) {
    EXPECT_EQ(lines[i]["method"], "anneal.internal.FleetService/Sync");
    by_creator[lines[i]["creator"]] = lines[i];
  }
  EXPECT_EQ(by_creator["ada"]["resource"], "workers/w1");
  EXPECT_EQ(by_creator["eve"]["code"], "PERMISSION_DENIED");
}

}  // namespace
}  // namespace anneal
