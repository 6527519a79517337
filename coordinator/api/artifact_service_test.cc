#include "coordinator/api/artifact_service.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "coordinator/api/testing/api_fixture.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOkAndHolds;
using ::anneal::testing::kEveKey;
using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr char kJob[] = "01hf7yat000000000000000000";
constexpr char kOtherJob[] = "01hf7yat000000000000000001";

class ArtifactServiceTest : public testing::ApiFixture {
 protected:
  ArtifactServiceTest() {
    WriteFile(Output("adapter/adapter_config.json"), "{}");
    WriteFile(Output("ledger.jsonl"), kLedger);
    WriteFile(Output("unlisted.txt"), "secret");
    PublishJobs(Manifest("ledger.jsonl", kLedger.size()));
    Serve(service_);
    stub_ = v1::ArtifactService::NewStub(channel_);
  }
  ~ArtifactServiceTest() override { server_.reset(); }

  std::string Output(const std::string& path) const {
    return root_->Absolute(absl::StrCat("outputs/", kJob, "/", path));
  }

  static std::string Manifest(const std::string& path, size_t bytes) {
    return absl::StrCat(R"({"version":1,"files":[{"path":")", path, R"(","bytes":)", bytes,
                        R"(,"sha256":"ab"},)",
                        R"({"path":"adapter/adapter_config.json","bytes":2,"sha256":"cd"}]})");
  }
  // One job that has published `manifest`, and one that has not got so far.
  void PublishJobs(const std::string& manifest) {
    WriteFile(Output("manifest.json"), manifest);
    internal::JobRecord done, running;
    done.set_id(kJob);
    done.mutable_job()->set_project("vision");
    done.mutable_job()->mutable_result()->set_manifest_sha256(Sha256Hex(manifest));
    running.set_id(kOtherJob);
    running.mutable_job()->set_project("vision");
    catalog_.Publish({std::make_shared<internal::JobRecord>(done),
                      std::make_shared<internal::JobRecord>(running)});
  }

  absl::StatusOr<v1::ListArtifactsResponse> List(const std::string& parent,
                                                 const char* key = testing::kAdaKey) {
    v1::ListArtifactsRequest request;
    request.set_parent(parent);
    return Call(*stub_, &v1::ArtifactService::Stub::ListArtifacts, request, key);
  }
  absl::StatusOr<std::string> Get(const std::string& name, int64_t offset = 0,
                                  const char* key = testing::kAdaKey) {
    v1::DownloadArtifactRequest request;
    request.set_name(name);
    request.set_offset(offset);
    return Download<v1::DownloadArtifactResponse>(
        offset,
        [&](grpc::ClientContext* context) { return stub_->DownloadArtifact(context, request); },
        key);
  }

  const std::string kLedger = std::string(2'500'000, 'l');
  const std::string job_name_ = absl::StrCat("jobs/", kJob);
  ArtifactServiceImpl service_{{authenticator_, *limits_, catalog_, *root_, pool_}};
  std::unique_ptr<v1::ArtifactService::Stub> stub_;
};

TEST_F(ArtifactServiceTest, ListsTheManifestByPath) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::ListArtifactsResponse list, List(job_name_));
  ASSERT_THAT(list.artifacts(), SizeIs(2));
  EXPECT_EQ(list.artifacts(0).name(), job_name_ + "/artifacts/adapter/adapter_config.json");
  EXPECT_EQ(list.artifacts(0).path(), "adapter/adapter_config.json");
  EXPECT_EQ(list.artifacts(0).sha256(), "cd");
  EXPECT_EQ(list.artifacts(1).size_bytes(), 2'500'000);
  EXPECT_EQ(list.folder_uri(), "file://" + root_->Absolute(absl::StrCat("outputs/", kJob)));
}

TEST_F(ArtifactServiceTest, AJobWithoutOutputsHasNone) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::ListArtifactsResponse list,
                              List(absl::StrCat("jobs/", kOtherJob)));
  EXPECT_THAT(list.artifacts(), SizeIs(0));
  EXPECT_EQ(list.folder_uri(), "");
  EXPECT_THAT(Get(absl::StrCat("jobs/", kOtherJob, "/artifacts/ledger.jsonl")),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(ArtifactServiceTest, SendsFilesFromAnyOffset) {
  EXPECT_THAT(Get(job_name_ + "/artifacts/ledger.jsonl"), IsOkAndHolds(kLedger));
  EXPECT_THAT(Get(job_name_ + "/artifacts/ledger.jsonl", 2'499'999), IsOkAndHolds("l"));
  EXPECT_THAT(Get(job_name_ + "/artifacts/ledger.jsonl", 2'500'001),
              StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(Get(job_name_ + "/artifacts/adapter/adapter_config.json"), IsOkAndHolds("{}"));
}

TEST_F(ArtifactServiceTest, OnlyWhatTheManifestListsCanBeNamed) {
  for (const char* path :
       {"/artifacts/unlisted.txt", "/artifacts/manifest.json", "/artifacts/adapter"}) {
    EXPECT_THAT(Get(job_name_ + path), StatusIs(absl::StatusCode::kNotFound)) << path;
  }
  for (const char* path : {"/artifacts/../../../etc/passwd", "/artifacts//etc/passwd",
                           "/artifacts/", "/artifacts/./ledger.jsonl",
                           "/artifacts/adapter/../unlisted.txt", "", "/other/ledger.jsonl"}) {
    EXPECT_THAT(Get(job_name_ + path),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("name")))
        << path;
  }
  EXPECT_THAT(Get("jobs/x/artifacts/../../etc/passwd"),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(List("jobs/../x"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("parent")));
}

TEST_F(ArtifactServiceTest, OtherProjectsSeeNothing) {
  EXPECT_THAT(List(job_name_, kEveKey), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(Get(job_name_ + "/artifacts/ledger.jsonl", 0, kEveKey),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(List(job_name_, ""), StatusIs(absl::StatusCode::kUnauthenticated));
}

TEST_F(ArtifactServiceTest, WhatWasChangedAfterwardsIsNotHandedOut) {
  std::filesystem::resize_file(Output("ledger.jsonl"), 5);
  EXPECT_THAT(Get(job_name_ + "/artifacts/ledger.jsonl"), StatusIs(absl::StatusCode::kDataLoss));
  std::filesystem::remove(Output("adapter/adapter_config.json"));
  std::filesystem::create_symlink("/etc/passwd", Output("adapter/adapter_config.json"));
  EXPECT_THAT(Get(job_name_ + "/artifacts/adapter/adapter_config.json"),
              StatusIs(absl::StatusCode::kDataLoss));
  WriteFile(Output("manifest.json"), Manifest("unlisted.txt", 6));
  EXPECT_THAT(List(job_name_), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("manifest")));
}

TEST_F(ArtifactServiceTest, HostileManifestsAreRefused) {
  for (const std::string& bad :
       {Manifest("../../../etc/passwd", 1), Manifest("/etc/passwd", 1), std::string("[]"),
        std::string("{"), std::string(R"({"files":[{"path":"a"}]})"),
        std::string(R"({"files":[{"path":"a","bytes":-1,"sha256":""}]})")}) {
    PublishJobs(bad);
    EXPECT_FALSE(List(job_name_).ok()) << bad;
  }
}

}  // namespace
}  // namespace anneal
