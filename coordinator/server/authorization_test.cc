// Every method that a coordinator serves: by every role, with every kind of credential, for what is
// the caller's own and what is another project's. certificate_authorization_test.cc is the same for
// certificates.

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/server/testing/keys_fixture.h"
#include "coordinator/server/testing/method_table.h"
#include "coordinator/server/testing/owned_resources.h"

namespace anneal {
namespace {

using ::testing::HasSubstr;
using testing::IsFleetMethod;
using testing::IsOk;
using testing::MethodCaller;
using testing::Need;
using testing::NeedOf;
using ::testing::Not;
using testing::OwnedResources;
using testing::ServedMethodsOf;
using testing::StatusIs;
using Method = google::protobuf::MethodDescriptor;

class AuthorizationTest : public testing::KeysFixture {
 protected:
  absl::Status CallMethod(const Method& method, const google::protobuf::Message& request,
                          const std::string& key) {
    const std::shared_ptr<grpc::Channel> channel =
        IsFleetMethod(method) ? *MakeChannel({.target = coordinator_->fleet_address()}) : channel_;
    return MethodCaller::Call(channel, method, request, key);
  }
  absl::Status CallMethod(const Method& method, const std::string& key,
                          const std::string& resource = "") {
    return CallMethod(method, *caller_.NewRequest(method, resource), key);
  }
  // One of each role, in a project.
  std::map<Role, std::string> SecretsOfAllRoles(const std::string& project) {
    return {{Role::kViewer, SecretOf(v1::Key::ROLE_VIEWER, project)},
            {Role::kUser, SecretOf(v1::Key::ROLE_USER, project)},
            {Role::kAdmin, SecretOf(v1::Key::ROLE_ADMIN, project)},
            {Role::kWorker, SecretOf(v1::Key::ROLE_WORKER, project)}};
  }

  MethodCaller caller_;
};

TEST_F(AuthorizationTest, EveryMethodNeedsItsRight) {
  const std::map<Role, std::string> keys = SecretsOfAllRoles("vision");
  for (const Method* method : ServedMethodsOf(*coordinator_)) {
    for (const auto& [role, key] : keys) {
      SCOPED_TRACE(absl::StrCat(method->full_name(), " by ", RoleName(role)));
      const absl::Status status = CallMethod(*method, key);
      EXPECT_EQ(ReasonOf(status) == "ROLE_TOO_WEAK", !IsAllowed(role, NeedOf(*method).right))
          << status;
      EXPECT_NE(status.code(), absl::StatusCode::kUnauthenticated) << status;
      EXPECT_NE(status.code(), absl::StatusCode::kInternal) << status;
    }
  }
}

TEST_F(AuthorizationTest, NoMethodAnswersWithoutAValidKey) {
  // Of every role: what the key was good for plays no part.
  std::vector<std::pair<std::string, std::string>> keys = {
      {"API_KEY_MISSING", ""},
      {"API_KEY_UNKNOWN", "no-such-key-0123456789"},
      {"API_KEY_MALFORMED", std::string(300, 'k')}};
  for (const v1::Key::Role role :
       {v1::Key::ROLE_VIEWER, v1::Key::ROLE_USER, v1::Key::ROLE_ADMIN, v1::Key::ROLE_WORKER}) {
    keys.emplace_back("API_KEY_UNKNOWN", RevokedSecret(role));
    keys.emplace_back("API_KEY_EXPIRED", ExpiredSecret(role));
  }
  for (const Method* method : ServedMethodsOf(*coordinator_)) {
    for (const auto& [reason, key] : keys) {
      const absl::Status status = CallMethod(*method, key);
      EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnauthenticated)) << method->full_name();
      EXPECT_EQ(ReasonOf(status), reason) << method->full_name();
    }
  }
}

// One project with all there can be in it, and callers of two.
class ProjectsTest : public AuthorizationTest {
 protected:
  void SetUp() override {
    options_.fleet.lease = absl::Seconds(2);
    options_.fleet.start_grace = absl::ZeroDuration();
    AuthorizationTest::SetUp();
    owned_ = std::make_unique<OwnedResources>(
        OwnedResources::Parts{.channel = channel_,
                              .key = testing::kKey,
                              .job = NewRequest(1),
                              .model_uri = absl::StrCat("file://", folder_, "/shared/tiny"),
                              .storage_root = options_.storage_root,
                              .admin_socket = options_.admin_socket});
    owned_->SetJobWithOutputs(FinishAJob());
    owned_->SetWorker("workers/w1");
  }
  // With one artifact that can be downloaded. Its worker is gone afterwards: what is made later
  // stays as it is.
  std::string FinishAJob() {
    auto worker = StartWorker("w1", 1);
    const v1::Job job = StartTraining(*worker, 1);
    internal::TaskObservation& task = *worker->observed().mutable_tasks(0);
    const std::string folder = StagedOutputs(task.id());
    std::filesystem::create_directories(folder + "/adapter");
    std::ofstream(folder + "/adapter/weights") << std::string(100, 'w');
    const std::string manifest =
        absl::StrCat(R"({"generation": )", task.id().generation(),
                     R"(, "files": [{"path": "adapter/weights", "bytes": 100, "sha256": "ab"}]})");
    std::ofstream(folder + "/manifest.json") << manifest;
    protocol::Report report;
    report.result = protocol::ResultReport{.primary = "adapter",
                                           .manifest_sha256 = Sha256Hex(manifest),
                                           .first_loss = 2,
                                           .last_loss = 1};
    testing::FakeWorker::Report(task, report, 1);
    worker->Sync();
    AwaitState(job.name(), v1::JOB_STATE_SUCCEEDED);
    worker->Disappear();
    const auto is_lost = [&] {
      const absl::StatusOr<v1::ListWorkersResponse> workers =
          Call(*cluster_, &v1::ClusterService::Stub::ListWorkers, v1::ListWorkersRequest());
      return workers.ok() && workers->workers(0).state() == v1::Worker::STATE_LOST;
    };
    for (const absl::Time patience = absl::Now() + absl::Seconds(30);
         !is_lost() && absl::Now() < patience;) {
    }
    return job.name();
  }

  // The caller has been let in and the resource found, whether it could be changed now or not.
  static void ExpectFound(const absl::Status& status) {
    EXPECT_TRUE(status.ok() || ReasonOf(status) == "WRONG_STATE") << status;
  }

  std::unique_ptr<OwnedResources> owned_;
};

TEST_F(ProjectsTest, RolesFindWhatIsTheirProjectsOwn) {
  const std::map<Role, std::string> keys = SecretsOfAllRoles("vision");
  for (const Method* method : ServedMethodsOf(*coordinator_)) {
    const Need& need = NeedOf(*method);
    if (*need.resource == '\0') continue;
    for (const auto& [role, key] : keys) {
      SCOPED_TRACE(absl::StrCat(method->full_name(), " by ", RoleName(role)));
      const absl::Status status = CallMethod(*method, key, owned_->Make(need.resource));
      if (IsAllowed(role, need.right)) {
        ExpectFound(status);
      } else {
        EXPECT_EQ(ReasonOf(status), "ROLE_TOO_WEAK") << status;
      }
    }
  }
}

TEST_F(ProjectsTest, NoRoleFindsWhatIsForeign) {
  const std::map<Role, std::string> keys = SecretsOfAllRoles("other");
  const std::string owner = SecretOf(v1::Key::ROLE_ADMIN, "vision");
  for (const Method* method : ServedMethodsOf(*coordinator_)) {
    const Need& need = NeedOf(*method);
    if (*need.resource == '\0') continue;
    for (const auto& [role, key] : keys) {
      SCOPED_TRACE(absl::StrCat(method->full_name(), " by a foreign ", RoleName(role)));
      const std::string resource = owned_->Make(need.resource);
      const absl::Status status = CallMethod(*method, key, resource);
      if (!IsAllowed(role, need.right)) {
        EXPECT_EQ(ReasonOf(status), "ROLE_TOO_WEAK") << status;
      } else if (need.is_shared) {
        ExpectFound(status);
      } else {
        EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound));
      }
      // Nothing has happened to it.
      if (!need.is_shared) ExpectFound(CallMethod(*method, owner, resource));
    }
  }
}

TEST_F(ProjectsTest, WhatAJobNamesIsOfItsOwnProject) {
  const std::string file = owned_->Make("file"), model = owned_->Make("model"),
                    parent = owned_->Make("ended job"),
                    output = owned_->Make("job with outputs") + "/artifacts/model";
  const v1::CreateJobRequest good = NewRequest(1);
  std::map<std::string, v1::CreateJobRequest> requests;
  (requests["spec.model"] = good).mutable_spec()->set_model(model);
  (requests["spec.model of a job"] = good).mutable_spec()->set_model(output);
  (requests["spec.data.train[0]"] = good).mutable_spec()->mutable_data()->set_train(0, file);
  (requests["spec.data.validation.files[0]"] = good)
      .mutable_spec()
      ->mutable_data()
      ->mutable_validation()
      ->add_files(file);
  (requests["parent"] = good).set_parent(parent);
  for (const auto& [field, request] : requests) {
    SCOPED_TRACE(field);
    const absl::Status foreign = Create(request, testing::kOtherKey).status();
    v1::CheckJobRequest check;
    *check.mutable_spec() = request.spec();
    absl::StatusOr<v1::CheckJobResponse> checked =
        Call(*jobs_, &Jobs::CheckJob, check, testing::kOtherKey);
    ANNEAL_ASSERT_OK(checked.status());
    if (field == "parent") {
      EXPECT_THAT(foreign, StatusIs(absl::StatusCode::kNotFound));
    } else {
      EXPECT_THAT(foreign, StatusIs(absl::StatusCode::kInvalidArgument));
      EXPECT_EQ(ReasonOf(foreign), "BAD_SPEC");
      ASSERT_GE(checked->issues_size(), 1);
      EXPECT_THAT(absl::StrCat("spec.", checked->issues(0).field()),
                  ::testing::AnyOf(field, "spec.model"));
      EXPECT_THAT(checked->issues(0).message(), Not(HasSubstr("vision")));
    }
    // An adapter is no whole model to begin from, whoever asks.
    if (field != "spec.model of a job") {
      EXPECT_THAT(Create(request), IsOk());
    }
  }
}

TEST_F(ProjectsTest, EqualNamesOfTwoProjectsAreTwoThings) {
  v1::ImportModelRequest import;
  import.set_model_id("same");
  import.set_source_uri(absl::StrCat("file://", folder_, "/shared/tiny"));
  const auto models = v1::ModelService::NewStub(channel_);
  for (const char* key : {testing::kKey, testing::kOtherKey})
    ANNEAL_ASSERT_OK(Call(*models, &v1::ModelService::Stub::ImportModel, import, key).status());
  v1::CreateJobRequest request = NewRequest(1);
  request.mutable_spec()->set_model("models/same");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Job job, Create(request));
  v1::DeleteModelRequest remove;
  remove.set_name("models/same");
  const auto delete_as = [&](const std::string& key) {
    return Call(*models, &v1::ModelService::Stub::DeleteModel, remove, key.c_str()).status();
  };
  // Somebody who has none hears nothing of either; the other's job holds only its own.
  EXPECT_THAT(delete_as(SecretOf(v1::Key::ROLE_USER, "third")),
              StatusIs(absl::StatusCode::kNotFound, Not(HasSubstr("jobs/"))));
  EXPECT_THAT(delete_as(testing::kOtherKey), IsOk());
  EXPECT_THAT(delete_as(testing::kKey),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(job.name())));
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
  const auto list = [&](const std::string& key) { return List(key); };
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

}  // namespace
}  // namespace anneal
