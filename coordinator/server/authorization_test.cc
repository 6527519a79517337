// Every RPC of the public API against every role, every kind of bad key or certificate, and every
// other project.

#include <google/protobuf/descriptor.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "anneal/v1/artifact_service.grpc.pb.h"
#include "anneal/v1/file_service.grpc.pb.h"
#include "anneal/v1/model_service.grpc.pb.h"
#include "coordinator/server/testing/tls_coordinator_fixture.h"
#include "google/protobuf/dynamic_message.h"

namespace anneal {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using testing::IsOk;
using ::testing::Not;
using testing::StatusIs;

// What a method needs, and the field that names a resource of the caller's project.
struct Need {
  Right right;
  const char* resource = "";
};

// A method that is missing here fails the test: decide what it needs.
const std::map<std::string, Need>& Needs() {
  static const auto* const needs = new std::map<std::string, Need>{
      {"FineTuningService.CheckJob", {Right::kRead}},
      {"FineTuningService.CreateJob", {Right::kWrite}},
      {"FineTuningService.GetJob", {Right::kRead, "job"}},
      {"FineTuningService.ListJobs", {Right::kRead}},
      {"FineTuningService.DeleteJob", {Right::kWrite, "job"}},
      {"FineTuningService.CancelJob", {Right::kWrite, "job"}},
      {"FineTuningService.PauseJob", {Right::kWrite, "job"}},
      {"FineTuningService.ResumeJob", {Right::kWrite, "job"}},
      {"FineTuningService.FinishJob", {Right::kWrite, "job"}},
      {"FineTuningService.RequestStacks", {Right::kWrite, "job"}},
      {"FineTuningService.ListJobEvents", {Right::kRead, "job"}},
      {"FineTuningService.ListStepMetrics", {Right::kRead, "job"}},
      {"FineTuningService.ListCheckpoints", {Right::kRead, "job"}},
      {"FineTuningService.WatchJob", {Right::kRead, "job"}},
      {"FineTuningService.ReadJobLog", {Right::kRead, "job"}},
      {"FileService.UploadFile", {Right::kWrite}},
      {"FileService.GetUpload", {Right::kRead}},
      {"FileService.GetFile", {Right::kRead, "file"}},
      {"FileService.ListFiles", {Right::kRead}},
      {"FileService.DeleteFile", {Right::kWrite, "file"}},
      {"FileService.DownloadFile", {Right::kRead, "file"}},
      {"ArtifactService.ListArtifacts", {Right::kRead, "job"}},
      {"ArtifactService.DownloadArtifact", {Right::kRead, "artifact"}},
      {"ModelService.ImportModel", {Right::kWrite}},
      {"ModelService.GetModel", {Right::kRead, "model"}},
      {"ModelService.ListModels", {Right::kRead}},
      {"ModelService.DeleteModel", {Right::kWrite, "model"}},
      {"ClusterService.ListWorkers", {Right::kRead}},
      {"ClusterService.DrainWorker", {Right::kOperate}},
      {"ClusterService.UndrainWorker", {Right::kOperate}},
      {"ClusterService.GetStorage", {Right::kOperate}},
      {"ClusterService.GetCoordinator", {Right::kRead}},
      {"ClusterService.CheckFleet", {Right::kOperate}},
      {"KeyService.CreateKey", {Right::kOperate}},
      {"KeyService.ListKeys", {Right::kOperate}},
      {"KeyService.RevokeKey", {Right::kOperate}},
  };
  return *needs;
}

std::vector<const google::protobuf::MethodDescriptor*> AllMethods() {
  std::vector<const google::protobuf::MethodDescriptor*> methods;
  for (const google::protobuf::Descriptor* message :
       {v1::CheckJobRequest::descriptor(), v1::GetFileRequest::descriptor(),
        v1::ListArtifactsRequest::descriptor(), v1::GetModelRequest::descriptor(),
        v1::ListWorkersRequest::descriptor(), v1::ListKeysRequest::descriptor()}) {
    for (int s = 0; s < message->file()->service_count(); ++s) {
      const google::protobuf::ServiceDescriptor* service = message->file()->service(s);
      for (int m = 0; m < service->method_count(); ++m) methods.push_back(service->method(m));
    }
  }
  return methods;
}

std::string ShortName(const google::protobuf::MethodDescriptor& method) {
  return absl::StrCat(method.service()->name(), ".", method.name());
}

// Calls any method. Both fixtures below are one.
class MethodCaller {
 protected:
  // One call of any method, with one request; the status it ends with.
  static absl::Status CallMethod(const std::shared_ptr<grpc::Channel>& channel,
                                 const google::protobuf::MethodDescriptor& method,
                                 const google::protobuf::Message& request, const std::string& key) {
    grpc::GenericStub stub(channel);
    grpc::ClientContext context;
    PrepareCall(context, key, absl::Seconds(30));
    grpc::CompletionQueue queue;
    const auto step = [&queue] {
      void* tag = nullptr;
      bool ok = false;
      EXPECT_TRUE(queue.Next(&tag, &ok));
      return ok;
    };
    const auto stream = stub.PrepareCall(
        &context, absl::StrCat("/", method.service()->full_name(), "/", method.name()), &queue);
    stream->StartCall(&queue);
    bool alive = step();
    if (alive) {
      grpc::ByteBuffer bytes;
      bool own = false;
      EXPECT_TRUE(
          grpc::SerializationTraits<google::protobuf::Message>::Serialize(request, &bytes, &own)
              .ok());
      stream->WriteLast(bytes, grpc::WriteOptions(), &queue);
      step();
    }
    // A watched job never ends: its first answer is enough.
    grpc::ByteBuffer answer;
    stream->Read(&answer, &queue);
    if (step() && method.server_streaming()) {
      context.TryCancel();
      return absl::OkStatus();
    }
    grpc::Status status;
    stream->Finish(&status, &queue);
    step();
    return FromGrpcStatus(status);
  }

  std::unique_ptr<google::protobuf::Message> NewRequestOf(
      const google::protobuf::MethodDescriptor& method, const std::string& resource = "") {
    std::unique_ptr<google::protobuf::Message> request(
        messages_.GetPrototype(method.input_type())->New());
    if (resource.empty()) return request;
    for (const char* name : {"name", "parent"}) {
      if (const auto* field = method.input_type()->FindFieldByName(name)) {
        request->GetReflection()->SetString(request.get(), field, resource);
        return request;
      }
    }
    ADD_FAILURE() << method.full_name() << " names no resource";
    return request;
  }

 private:
  google::protobuf::DynamicMessageFactory messages_;
};

// A resource of each kind, by the kind's name in Needs().
std::map<std::string, std::string> ResourcesOf(const std::string& job) {
  SeededRandom random(2);
  return {{"job", job},
          {"artifact", job + "/artifacts/adapter/adapter_config.json"},
          {"file", absl::StrCat("files/", NewUlid(absl::Now(), random))},
          {"model", "models/tiny"}};
}

class AuthorizationTest : public testing::CoordinatorFixture, protected MethodCaller {
 protected:
  absl::Status CallMethod(const google::protobuf::MethodDescriptor& method,
                          const google::protobuf::Message& request, const std::string& key) {
    return MethodCaller::CallMethod(channel_, method, request, key);
  }

  absl::StatusOr<v1::CreateKeyResponse> MakeKey(v1::Key::Role role, const std::string& project) {
    v1::CreateKeyRequest request;
    request.set_role(role);
    request.set_project(project);
    request.set_creator("someone");
    return Call(*LocalKeys(), &v1::KeyService::Stub::CreateKey, request, "");
  }
  std::string SecretOf(v1::Key::Role role, const std::string& project = "vision") {
    absl::StatusOr<v1::CreateKeyResponse> made = MakeKey(role, project);
    EXPECT_THAT(made, IsOk());
    return made->secret();
  }
  std::unique_ptr<v1::KeyService::Stub> LocalKeys() {
    return v1::KeyService::NewStub(*MakeChannel({.target = "unix:" + options_.admin_socket}));
  }
};

TEST_F(AuthorizationTest, EveryMethodNeedsItsRight) {
  const std::map<std::string, std::pair<Role, std::string>> keys = {
      {"viewer", {Role::kViewer, SecretOf(v1::Key::ROLE_VIEWER)}},
      {"user", {Role::kUser, SecretOf(v1::Key::ROLE_USER)}},
      {"admin", {Role::kAdmin, SecretOf(v1::Key::ROLE_ADMIN)}},
      {"worker", {Role::kWorker, SecretOf(v1::Key::ROLE_WORKER)}}};
  for (const google::protobuf::MethodDescriptor* method : AllMethods()) {
    SCOPED_TRACE(method->full_name());
    const auto need = Needs().find(ShortName(*method));
    ASSERT_NE(need, Needs().end()) << "say in Needs() what it needs";
    for (const auto& [name, key] : keys) {
      const absl::Status status = CallMethod(*method, *NewRequestOf(*method), key.second);
      EXPECT_EQ(ReasonOf(status) == "ROLE_TOO_WEAK", !IsAllowed(key.first, need->second.right))
          << name << ": " << status;
      EXPECT_NE(status.code(), absl::StatusCode::kUnauthenticated) << name;
      EXPECT_NE(status.code(), absl::StatusCode::kInternal) << name << ": " << status;
    }
  }
}

TEST_F(AuthorizationTest, NoMethodAnswersWithoutAValidKey) {
  absl::StatusOr<v1::CreateKeyResponse> revoked = MakeKey(v1::Key::ROLE_ADMIN, "vision");
  ASSERT_THAT(revoked, IsOk());
  v1::RevokeKeyRequest revoke;
  revoke.set_name(revoked->key().name());
  for (int i = 0; i < 2; ++i) {
    ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Key now,
                                Call(*LocalKeys(), &v1::KeyService::Stub::RevokeKey, revoke, ""));
    EXPECT_TRUE(now.has_revoke_time());
  }
  const std::map<std::string, std::string> keys = {{"API_KEY_MISSING", ""},
                                                   {"API_KEY_UNKNOWN", revoked->secret()},
                                                   {"API_KEY_MALFORMED", std::string(300, 'k')}};
  for (const google::protobuf::MethodDescriptor* method : AllMethods()) {
    for (const auto& [reason, key] : keys) {
      const absl::Status status = CallMethod(*method, *NewRequestOf(*method), key);
      EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnauthenticated)) << method->full_name();
      EXPECT_EQ(ReasonOf(status), reason) << method->full_name();
    }
  }
}

TEST_F(AuthorizationTest, WhatIsForeignIsNotFound) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Job job, Create(NewRequest(1)));
  v1::ImportModelRequest import;
  import.set_model_id("tiny");
  import.set_source_uri(absl::StrCat("file://", folder_, "/shared/tiny"));
  auto models = v1::ModelService::NewStub(channel_);
  ANNEAL_ASSERT_OK(Call(*models, &v1::ModelService::Stub::ImportModel, import).status());
  const std::map<std::string, std::string> resources = ResourcesOf(job.name());
  const std::string stranger = SecretOf(v1::Key::ROLE_ADMIN, "other");
  for (const google::protobuf::MethodDescriptor* method : AllMethods()) {
    const std::string kind = Needs().at(ShortName(*method)).resource;
    if (kind.empty()) continue;
    EXPECT_THAT(CallMethod(*method, *NewRequestOf(*method, resources.at(kind)), stranger),
                StatusIs(absl::StatusCode::kNotFound))
        << method->full_name();
  }
  EXPECT_THAT(Get(job.name()), IsOk()) << "and nothing has happened to it";
}

TEST_F(AuthorizationTest, KeysExpireAndOutliveRestarts) {
  const std::string kept = SecretOf(v1::Key::ROLE_USER);
  v1::CreateKeyRequest request;
  request.set_role(v1::Key::ROLE_USER);
  request.set_project("vision");
  request.set_creator("brief");
  request.mutable_expire_time()->set_seconds(absl::ToUnixSeconds(absl::Now()) - 1);
  EXPECT_THAT(Call(*LocalKeys(), &v1::KeyService::Stub::CreateKey, request, ""),
              StatusIs(absl::StatusCode::kInvalidArgument));
  request.mutable_expire_time()->set_seconds(absl::ToUnixSeconds(absl::Now()) + 1);
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::CreateKeyResponse brief,
                              Call(*LocalKeys(), &v1::KeyService::Stub::CreateKey, request, ""));
  const auto list = [&](const std::string& key) {
    return Call(*jobs_, &Jobs::ListJobs, v1::ListJobsRequest(), key.c_str()).status();
  };
  absl::Status status = list(brief.secret());
  for (const absl::Time patience = absl::Now() + absl::Seconds(20);
       status.ok() && absl::Now() < patience;) {
    status = list(brief.secret());
  }
  EXPECT_EQ(ReasonOf(status), "API_KEY_EXPIRED");

  StartCoordinator();
  EXPECT_THAT(list(kept), IsOk());
  EXPECT_EQ(ReasonOf(list(brief.secret())), "API_KEY_EXPIRED");
  ANNEAL_ASSERT_OK_AND_ASSIGN(
      const v1::ListKeysResponse keys,
      Call(*LocalKeys(), &v1::KeyService::Stub::ListKeys, v1::ListKeysRequest(), ""));
  EXPECT_EQ(keys.keys_size(), 2);
}

TEST_F(AuthorizationTest, TheKeyItselfIsNowhereOnDisk) {
  const std::string secret = SecretOf(v1::Key::ROLE_USER);
  coordinator_.reset();
  for (const auto& entry : std::filesystem::recursive_directory_iterator(options_.data_dir)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    EXPECT_THAT(bytes, Not(HasSubstr(secret))) << entry.path();
  }
}

TEST_F(AuthorizationTest, HealthNeedsNoKey) {
  // The health service has no generated classes: its messages are bytes.
  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  PrepareCall(context, "", absl::Seconds(30));
  grpc::CompletionQueue queue;
  const grpc::Slice empty;
  const grpc::ByteBuffer request(&empty, 1);
  grpc::ByteBuffer response;
  const auto call =
      stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
  call->StartCall();
  grpc::Status status;
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  ASSERT_TRUE(queue.Next(&tag, &ok));
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(AuthorizationTest, OnlyWorkersJoinTheFleet) {
  testing::FakeWorker stranger(coordinator_->fleet_address(), SecretOf(v1::Key::ROLE_USER).c_str(),
                               "w9", 1);
  EXPECT_THAT(stranger.AwaitEnd(), StatusIs(absl::StatusCode::kPermissionDenied));
  const std::string key = SecretOf(v1::Key::ROLE_WORKER);
  testing::FakeWorker worker(coordinator_->fleet_address(), key.c_str(), "w1", 1);
  worker.Sync();
  worker.AwaitDesired(
      [](const internal::Desired& desired) { return desired.coordinator_epoch() > 0; });
}

// The same with certificates in place of keys, over TLS.
class CertificateAuthorizationTest : public testing::TlsCoordinatorFixture, protected MethodCaller {
 protected:
  // A channel whose certificate stands for a role.
  std::shared_ptr<grpc::Channel> ChannelOf(const std::string& name, v1::Key::Role role,
                                           const std::string& project = "vision") {
    MakeClient(name, absl::StrCat("/O=Lab/CN=", name));
    EXPECT_THAT(Bind(absl::StrCat("CN=", name, ",O=Lab"), role, project), IsOk());
    return ChannelAs(name);
  }
  absl::Status CallWith(const std::shared_ptr<grpc::Channel>& channel,
                        const google::protobuf::MethodDescriptor& method,
                        const std::string& resource = "") {
    return CallMethod(channel, method, *NewRequestOf(method, resource), testing::kNoKey);
  }
};

TEST_F(CertificateAuthorizationTest, EveryMethodNeedsItsRight) {
  const std::map<Role, std::shared_ptr<grpc::Channel>> channels = {
      {Role::kViewer, ChannelOf("viewer", v1::Key::ROLE_VIEWER)},
      {Role::kUser, ChannelOf("user", v1::Key::ROLE_USER)},
      {Role::kAdmin, ChannelOf("admin", v1::Key::ROLE_ADMIN)}};
  for (const google::protobuf::MethodDescriptor* method : AllMethods()) {
    const Right right = Needs().at(ShortName(*method)).right;
    for (const auto& [role, channel] : channels) {
      SCOPED_TRACE(absl::StrCat(method->full_name(), " by ", RoleName(role)));
      const absl::Status status = CallWith(channel, *method);
      EXPECT_EQ(ReasonOf(status) == "ROLE_TOO_WEAK", !IsAllowed(role, right)) << status;
      EXPECT_NE(status.code(), absl::StatusCode::kUnauthenticated) << status;
      EXPECT_NE(status.code(), absl::StatusCode::kUnavailable) << status;
      EXPECT_NE(status.code(), absl::StatusCode::kInternal) << status;
    }
  }
}

TEST_F(CertificateAuthorizationTest, NoMethodAnswersToACertificateThatStandsForNobody) {
  MakeClient("nobody", "/O=Lab/CN=nobody");
  MakeClient("revoked", "/O=Lab/CN=revoked");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::CreateKeyResponse revoked,
                              Bind("CN=revoked,O=Lab", v1::Key::ROLE_ADMIN));
  Revoke(revoked.key());
  MakeClient("expired", "/O=Lab/CN=expired");
  ANNEAL_ASSERT_OK(
      Bind("CN=expired,O=Lab", v1::Key::ROLE_ADMIN, "vision", absl::Seconds(2)).status());
  const std::shared_ptr<grpc::Channel> expired = ChannelAs("expired");
  const google::protobuf::MethodDescriptor& any = *AllMethods().front();
  const absl::Time patience = absl::Now() + absl::Seconds(20);
  while (ReasonOf(CallWith(expired, any)) != "CERTIFICATE_EXPIRED" && absl::Now() < patience)
    continue;
  const std::vector<std::pair<std::string, std::shared_ptr<grpc::Channel>>> channels = {
      {"API_KEY_MISSING", ChannelAs("")},
      {"CERTIFICATE_UNKNOWN", ChannelAs("nobody")},
      {"CERTIFICATE_UNKNOWN", ChannelAs("revoked")},
      {"CERTIFICATE_EXPIRED", expired}};
  for (const google::protobuf::MethodDescriptor* method : AllMethods()) {
    for (const auto& [reason, channel] : channels) {
      const absl::Status status = CallWith(channel, *method);
      EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnauthenticated)) << method->full_name();
      EXPECT_EQ(ReasonOf(status), reason) << method->full_name();
    }
    // A key is what counts where one is sent, a bad one too.
    EXPECT_EQ(
        ReasonOf(CallMethod(expired, *method, *NewRequestOf(*method), "no-such-key-0123456789")),
        "API_KEY_UNKNOWN");
  }
}

TEST_F(CertificateAuthorizationTest, NoMethodIsReachedWithACertificateOfAnotherAuthority) {
  MakeAuthority("stranger");
  MakeClient("admin", "/O=Lab/CN=admin", "stranger");
  ANNEAL_ASSERT_OK(Bind("CN=admin,O=Lab", v1::Key::ROLE_ADMIN).status());
  const std::shared_ptr<grpc::Channel> channel = ChannelAs("admin");
  for (const google::protobuf::MethodDescriptor* method : AllMethods()) {
    EXPECT_THAT(CallWith(channel, *method), StatusIs(absl::StatusCode::kUnavailable))
        << method->full_name();
  }
}

TEST_F(CertificateAuthorizationTest, WhatIsForeignIsNotFound) {
  channel_ = ChannelOf("owner", v1::Key::ROLE_USER);
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Job job,
                              Call(*v1::FineTuningService::NewStub(channel_), &Jobs::CreateJob,
                                   NewRequest(1), testing::kNoKey));
  v1::ImportModelRequest import;
  import.set_model_id("tiny");
  import.set_source_uri(absl::StrCat("file://", folder_, "/shared/tiny"));
  ANNEAL_ASSERT_OK(Call(*v1::ModelService::NewStub(channel_), &v1::ModelService::Stub::ImportModel,
                        import, testing::kNoKey)
                       .status());
  const std::map<std::string, std::string> resources = ResourcesOf(job.name());
  const std::shared_ptr<grpc::Channel> stranger =
      ChannelOf("stranger", v1::Key::ROLE_ADMIN, "other");
  for (const google::protobuf::MethodDescriptor* method : AllMethods()) {
    const std::string kind = Needs().at(ShortName(*method)).resource;
    if (kind.empty()) continue;
    EXPECT_THAT(CallWith(stranger, *method, resources.at(kind)),
                StatusIs(absl::StatusCode::kNotFound))
        << method->full_name();
  }
  v1::GetJobRequest get;
  get.set_name(job.name());
  EXPECT_THAT(Call(*v1::FineTuningService::NewStub(channel_), &Jobs::GetJob, get, testing::kNoKey),
              IsOk())
      << "and nothing has happened to it";
}

}  // namespace
}  // namespace anneal
