// Keys that are taken back, or run out, while they are in use and in the credentials file.

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "anneal/v1/file_service.grpc.pb.h"
#include "anneal/v1/key_service.grpc.pb.h"
#include "coordinator/server/testing/coordinator_fixture.h"

namespace anneal {
namespace {

using testing::IsOk;
using testing::StatusIs;

class RevocationTest : public testing::CoordinatorFixture {
 protected:
  using Keys = v1::KeyService::Stub;

  std::unique_ptr<Keys> LocalKeys() {
    return v1::KeyService::NewStub(*MakeChannel({.target = "unix:" + options_.admin_socket}));
  }
  v1::CreateKeyResponse MakeKey(v1::Key::Role role,
                                absl::Duration lifetime = absl::InfiniteDuration()) {
    v1::CreateKeyRequest request;
    request.set_role(role);
    request.set_project("vision");
    request.set_creator("bob");
    if (lifetime != absl::InfiniteDuration()) {
      request.mutable_expire_time()->set_seconds(
          absl::ToUnixSeconds(Clock::Real().TimeNow() + lifetime));
    }
    absl::StatusOr<v1::CreateKeyResponse> made = Call(*LocalKeys(), &Keys::CreateKey, request, "");
    EXPECT_THAT(made, IsOk());
    return *std::move(made);
  }
  void Revoke(const v1::CreateKeyResponse& made) {
    v1::RevokeKeyRequest request;
    request.set_name(made.key().name());
    ANNEAL_ASSERT_OK(Call(*LocalKeys(), &Keys::RevokeKey, request, "").status());
  }
  // As the line that `anneal keys create` prints.
  void AddToCredentialsFile(const v1::CreateKeyResponse& made) {
    using std::filesystem::perms;
    std::filesystem::permissions(options_.credentials_file, perms::owner_read | perms::owner_write);
    std::ofstream(options_.credentials_file, std::ios::app) << made.secret() << " vision bob\n";
  }
  absl::Status List(const std::string& key) {
    return Call(*jobs_, &Jobs::ListJobs, v1::ListJobsRequest(), key.c_str()).status();
  }
  std::string Upload(const std::string& content) {
    grpc::ClientContext context;
    PrepareCall(context, testing::kKey, absl::Seconds(60));
    v1::File file;
    const auto stream = v1::FileService::NewStub(channel_)->UploadFile(&context, &file);
    stream->Write(HeaderFor(content));
    v1::UploadFileRequest chunk;
    for (size_t at = 0; at < content.size(); at += kMaxChunkBytes) {
      chunk.set_chunk(content.substr(at, kMaxChunkBytes));
      stream->Write(chunk);
    }
    stream->WritesDone();
    EXPECT_THAT(FromGrpcStatus(stream->Finish()), IsOk());
    return file.name();
  }
  // Until the coordinator knows of it; a write returns before.
  void AwaitUpload(const std::string& upload_id) {
    auto files = v1::FileService::NewStub(channel_);
    v1::GetUploadRequest request;
    request.set_upload_id(upload_id);
    absl::Status status;
    const absl::Time patience = absl::Now() + absl::Seconds(20);
    do {
      status = Call(*files, &v1::FileService::Stub::GetUpload, request).status();
    } while (absl::IsNotFound(status) && absl::Now() < patience);
    ASSERT_THAT(status, IsOk());
  }
  static v1::UploadFileRequest HeaderFor(const std::string& content) {
    v1::UploadFileRequest message;
    v1::UploadHeader& header = *message.mutable_header();
    header.set_display_name("train.jsonl");
    header.set_size_bytes(static_cast<int64_t>(content.size()));
    header.set_sha256(Sha256Hex(content));
    header.set_upload_id(Sha256Hex(content).substr(0, 32));
    return message;
  }
  static void ExpectRevoked(const absl::Status& status) {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnauthenticated));
    EXPECT_EQ(ReasonOf(status), "CREDENTIAL_REVOKED");
  }
};

TEST_F(RevocationTest, AKeyOfTheCredentialsFileStaysRevokedAfterARestart) {
  const v1::CreateKeyResponse made = MakeKey(v1::Key::ROLE_USER);
  AddToCredentialsFile(made);
  StartCoordinator();
  EXPECT_THAT(List(made.secret()), IsOk());
  Revoke(made);
  EXPECT_EQ(ReasonOf(List(made.secret())), "API_KEY_UNKNOWN");
  StartCoordinator();
  EXPECT_EQ(ReasonOf(List(made.secret())), "API_KEY_UNKNOWN");
  EXPECT_THAT(List(testing::kKey), IsOk());
}

TEST_F(RevocationTest, AKeyOfTheCredentialsFileExpiresAsItWasMade) {
  const v1::CreateKeyResponse made = MakeKey(v1::Key::ROLE_VIEWER, absl::Seconds(2));
  AddToCredentialsFile(made);  // as a user's
  StartCoordinator();
  absl::Status status = List(made.secret());
  for (const absl::Time patience = absl::Now() + absl::Seconds(20);
       status.ok() && absl::Now() < patience;) {
    EXPECT_NE(Create(NewRequest(1), made.secret().c_str()).status().code(), absl::StatusCode::kOk);
    status = List(made.secret());
  }
  EXPECT_EQ(ReasonOf(status), "API_KEY_EXPIRED");
}

TEST_F(RevocationTest, WatchersAreSentAway) {
  const v1::CreateKeyResponse made = MakeKey(v1::Key::ROLE_VIEWER);
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Job job, Create(NewRequest(1)));
  v1::WatchJobRequest watch;
  watch.set_name(job.name());
  grpc::ClientContext context;
  PrepareCall(context, made.secret(), absl::Seconds(60));
  const auto stream = jobs_->WatchJob(&context, watch);
  v1::WatchJobResponse message;
  ASSERT_TRUE(stream->Read(&message));
  Revoke(made);
  while (stream->Read(&message)) continue;
  ExpectRevoked(FromGrpcStatus(stream->Finish()));
}

TEST_F(RevocationTest, StreamsEndWhenTheirKeyExpires) {
  const v1::CreateKeyResponse made = MakeKey(v1::Key::ROLE_VIEWER, absl::Seconds(3));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Job job, Create(NewRequest(1)));
  v1::WatchJobRequest watch;
  watch.set_name(job.name());
  grpc::ClientContext context;
  PrepareCall(context, made.secret(), absl::Seconds(60));
  const auto stream = jobs_->WatchJob(&context, watch);
  v1::WatchJobResponse message;
  while (stream->Read(&message)) continue;
  const absl::Status status = FromGrpcStatus(stream->Finish());
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnauthenticated));
}

TEST_F(RevocationTest, TransfersStop) {
  const std::string name = Upload(std::string(20 << 20, 'x'));  // more than lies on the way unread
  const v1::CreateKeyResponse made = MakeKey(v1::Key::ROLE_USER);
  auto files = v1::FileService::NewStub(channel_);
  grpc::ClientContext down_context, up_context;
  PrepareCall(down_context, made.secret(), absl::Seconds(60));
  PrepareCall(up_context, made.secret(), absl::Seconds(60));
  v1::DownloadFileRequest request;
  request.set_name(name);
  const auto down = files->DownloadFile(&down_context, request);
  v1::DownloadFileResponse chunk;
  ASSERT_TRUE(down->Read(&chunk));
  v1::File file;
  const auto up = files->UploadFile(&up_context, &file);
  ASSERT_TRUE(up->Write(HeaderFor("hello")));
  AwaitUpload(HeaderFor("hello").header().upload_id());

  Revoke(made);
  v1::UploadFileRequest more;
  more.set_chunk("hello");
  up->Write(more);
  up->WritesDone();
  ExpectRevoked(FromGrpcStatus(up->Finish()));
  while (down->Read(&chunk)) continue;
  ExpectRevoked(FromGrpcStatus(down->Finish()));
}

TEST_F(RevocationTest, WorkersLeaveTheFleet) {
  const v1::CreateKeyResponse made = MakeKey(v1::Key::ROLE_WORKER);
  testing::FakeWorker worker(coordinator_->fleet_address(), made.secret(), "w1", 1);
  worker.Sync();
  worker.AwaitDesired(
      [](const internal::Desired& desired) { return desired.coordinator_epoch() > 0; });
  Revoke(made);
  worker.Sync();
  ExpectRevoked(worker.AwaitEnd());
}

}  // namespace
}  // namespace anneal
