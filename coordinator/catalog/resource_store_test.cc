#include "coordinator/catalog/resource_store.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "coordinator/catalog/schema.h"

namespace anneal {
namespace {

using ::anneal::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ResourceStoreTest : public ::testing::Test {
 protected:
  void SetUp() override { ANNEAL_ASSERT_OK_AND_ASSIGN(store_, ResourceStore::Open(dir_)); }

  internal::FileRecord File(const std::string& id, const std::string& project,
                            const std::string& sha256) {
    internal::FileRecord file;
    file.set_id(id);
    file.set_project(project);
    file.set_sha256(sha256);
    file.set_display_name("train.jsonl");
    return file;
  }

  std::vector<std::string> Ids(const std::vector<internal::FileRecord>& files) {
    std::vector<std::string> ids;
    for (const auto& file : files) ids.push_back(file.id());
    return ids;
  }

  const testing::TempDir temp_;
  const std::string dir_ = temp_.path();
  std::unique_ptr<ResourceStore> store_;
};

TEST_F(ResourceStoreTest, FilesAreKeptByProjectAndListedNewestFirst) {
  ANNEAL_ASSERT_OK(store_->PutFile(File("01a", "p", "aa")));
  ANNEAL_ASSERT_OK(store_->PutFile(File("01b", "p", "bb")));
  ANNEAL_ASSERT_OK(store_->PutFile(File("01c", "p", "aa")));
  ANNEAL_ASSERT_OK(store_->PutFile(File("01d", "other", "aa")));
  EXPECT_THAT(store_->PutFile(File("01a", "p", "aa")), StatusIs(absl::StatusCode::kAlreadyExists));

  ANNEAL_ASSERT_OK_AND_ASSIGN(auto all, store_->ListFiles("p", "", 10));
  EXPECT_THAT(Ids(all), ElementsAre("01c", "01b", "01a"));
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto page, store_->ListFiles("p", "01c", 1));
  EXPECT_THAT(Ids(page), ElementsAre("01b"));
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto same, store_->ListFiles("p", "", 10, "aa"));
  EXPECT_THAT(Ids(same), ElementsAre("01c", "01a"));

  ANNEAL_ASSERT_OK_AND_ASSIGN(auto newest, store_->FindFile("p", "aa", "train.jsonl"));
  ASSERT_TRUE(newest.has_value());
  EXPECT_EQ(newest->id(), "01c");
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto none, store_->FindFile("p", "aa", "other.jsonl"));
  EXPECT_FALSE(none.has_value());

  EXPECT_THAT(store_->GetFile("p", "01d"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("files/01d")));
  EXPECT_THAT(store_->DeleteFile("p", "01d"), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(ResourceStoreTest, RecordsSurviveReopening) {
  ANNEAL_ASSERT_OK(store_->PutFile(File("01a", "p", "aa")));
  internal::UploadRecord upload;
  upload.set_project("p");
  upload.set_upload_id("u1");
  ANNEAL_ASSERT_OK(store_->PutUpload(upload));
  upload.set_file_id("01a");
  ANNEAL_ASSERT_OK(store_->PutUpload(upload));
  ANNEAL_ASSERT_OK_AND_ASSIGN(store_, ResourceStore::Open(dir_));
  ANNEAL_EXPECT_OK(store_->GetFile("p", "01a"));
  ANNEAL_ASSERT_OK_AND_ASSIGN(internal::UploadRecord found, store_->GetUpload("p", "u1"));
  EXPECT_EQ(found.file_id(), "01a");
  ANNEAL_EXPECT_OK(store_->DeleteUpload("p", "u1"));
  EXPECT_THAT(store_->GetUpload("p", "u1"), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(ResourceStoreTest, WhatALiveJobUsesCannotBeDeleted) {
  ANNEAL_ASSERT_OK(store_->PutFile(File("01a", "p", "aa")));
  internal::ModelRecord model;
  model.set_project("p");
  model.set_id("m");
  ANNEAL_ASSERT_OK(store_->PutModel(model));
  ANNEAL_ASSERT_OK_AND_ASSIGN(Database database, OpenCatalogDatabase(dir_));
  ANNEAL_ASSERT_OK(
      database.Execute("INSERT INTO jobs VALUES ('j', 'p', NULL, x''); "
                       "INSERT INTO job_resources VALUES ('j', 'files/01a'), ('j', 'models/m')"));

  absl::Status refused = store_->DeleteFile("p", "01a");
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("jobs/j")));
  EXPECT_EQ(ReasonOf(refused), "IN_USE");
  EXPECT_THAT(store_->DeleteModel("p", "m"), StatusIs(absl::StatusCode::kFailedPrecondition));

  ANNEAL_ASSERT_OK(database.Execute("DELETE FROM jobs"));
  ANNEAL_EXPECT_OK(store_->DeleteFile("p", "01a"));
  ANNEAL_EXPECT_OK(store_->DeleteModel("p", "m"));
  EXPECT_THAT(store_->GetFile("p", "01a"), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(ResourceStoreTest, JobsOfOtherProjectsHoldNothingHereAndAreNotTold) {
  ANNEAL_ASSERT_OK(store_->PutFile(File("01a", "p", "aa")));
  for (const char* project : {"p", "other"}) {
    internal::ModelRecord model;
    model.set_project(project);
    model.set_id("tiny");
    ANNEAL_ASSERT_OK(store_->PutModel(model));
  }
  ANNEAL_ASSERT_OK_AND_ASSIGN(Database database, OpenCatalogDatabase(dir_));
  ANNEAL_ASSERT_OK(database.Execute(
      "INSERT INTO jobs VALUES ('j', 'p', NULL, x''); "
      "INSERT INTO job_resources VALUES ('j', 'files/01a'), ('j', 'models/tiny')"));

  const absl::Status foreign = store_->DeleteFile("other", "01a");
  EXPECT_THAT(foreign, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(foreign.message(), ::testing::Not(HasSubstr("jobs/")));
  EXPECT_THAT(store_->DeleteModel("third", "tiny"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store_->DeleteModel("p", "tiny"), StatusIs(absl::StatusCode::kFailedPrecondition));
  ANNEAL_EXPECT_OK(store_->DeleteModel("other", "tiny"));
  // A refusal has changed nothing.
  ANNEAL_EXPECT_OK(store_->GetModel("p", "tiny").status());
  ANNEAL_EXPECT_OK(store_->GetFile("p", "01a").status());
}

TEST_F(ResourceStoreTest, ARememberedModelIsForgottenWithIt) {
  internal::ModelRecord model;
  model.set_project("p");
  model.set_id("tiny");
  for (const char* hash : {"aa", "bb"}) {
    model.set_content_hash(hash);
    EXPECT_THAT(store_->GetModel("p", "tiny"), StatusIs(absl::StatusCode::kNotFound));
    ANNEAL_ASSERT_OK(store_->PutModel(model));
    for (int i = 0; i < 2; ++i) {
      ANNEAL_ASSERT_OK_AND_ASSIGN(const auto found, store_->GetModel("p", "tiny"));
      EXPECT_EQ(found->content_hash(), hash);
      EXPECT_THAT(store_->GetModel("q", "tiny"), StatusIs(absl::StatusCode::kNotFound));
    }
    ANNEAL_ASSERT_OK(store_->DeleteModel("p", "tiny"));
  }
}

TEST_F(ResourceStoreTest, ANewerSchemaIsRefused) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(Database database, OpenCatalogDatabase(dir_));
  ANNEAL_ASSERT_OK(database.Execute("PRAGMA user_version=99"));
  EXPECT_THAT(OpenCatalogDatabase(dir_),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("newer")));
}

TEST_F(ResourceStoreTest, ABrokenFileIsNamed) {
  store_.reset();
  { std::ofstream(dir_ + "/catalog.db", std::ios::trunc) << std::string(8192, 'x'); }
  std::filesystem::remove(dir_ + "/catalog.db-wal");
  EXPECT_THAT(ResourceStore::Open(dir_),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("catalog.db")));
}

}  // namespace
}  // namespace anneal
