#include "coordinator/api/project_limits.h"

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "common/rpc/status.h"
#include "common/storage/file_system.h"
#include "coordinator/lifecycle/checkpoints.h"
#include "coordinator/lifecycle/proto_time.h"

namespace anneal {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

constexpr char kProject[] = "vision";
const Caller kAda{.project = kProject, .creator = "ada", .proof = "ada's"};
const Caller kBob{.project = kProject, .creator = "bob", .proof = "bob's"};
const Caller kEve{.project = "other", .creator = "eve", .proof = "eve's"};

class ProjectLimitsTest : public ::testing::Test {
 protected:
  ProjectLimitsTest() : resources_(*ResourceStore::Open(folder_)) {}

  ProjectLimits& Limit(const LimitOptions& options) {
    registry_ = std::make_unique<MetricRegistry>();
    metrics_ = std::make_unique<LimitMetrics>(*registry_);
    limits_ = std::make_unique<ProjectLimits>(
        ProjectLimits::Parts{*resources_, catalog_, clock_, *metrics_}, options);
    return *limits_;
  }
  // Refused with this reason, naming this flag, and counted.
  void ExpectRefused(const absl::Status& status, const std::string& reason, const std::string& flag,
                     int refusals = 1) {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr(flag)));
    EXPECT_EQ(ReasonOf(status), reason);
    EXPECT_THAT(registry_->Scrape(),
                HasSubstr(absl::StrCat("anneal_limit_refusals_total{limit=\"",
                                       absl::AsciiStrToLower(reason), "\"} ", refusals)));
  }

  void PutFile(int64_t bytes) {
    internal::FileRecord file;
    file.set_id(NewUlid(clock_.TimeNow(), random_));
    file.set_project(kProject);
    file.set_sha256(std::string(64, 'a'));
    file.set_size_bytes(bytes);
    ANNEAL_ASSERT_OK(resources_->PutFile(file));
  }
  void PutUpload(const std::string& id, int64_t bytes, absl::Duration age,
                 const std::string& file_id = "") {
    internal::UploadRecord upload;
    upload.set_upload_id(id);
    upload.set_project(kProject);
    upload.set_size_bytes(bytes);
    upload.set_file_id(file_id);
    *upload.mutable_create_time() = TimestampOf(clock_.TimeNow() - age);
    ANNEAL_ASSERT_OK(resources_->PutUpload(upload));
  }
  void PutModel(int64_t bytes) {
    internal::ModelRecord model;
    model.set_id("tiny");
    model.set_project(kProject);
    model.set_size_bytes(bytes);
    ANNEAL_ASSERT_OK(resources_->PutModel(model));
  }
  // Returns its id. With outputs it has ended.
  std::string PublishJob(std::vector<int64_t> checkpoint_bytes, int64_t output_bytes = 0) {
    auto record = std::make_shared<internal::JobRecord>();
    record->set_id(NewUlid(clock_.TimeNow(), random_));
    v1::Job& job = *record->mutable_job();
    job.set_project(kProject);
    job.set_state(output_bytes > 0 ? v1::JOB_STATE_SUCCEEDED : v1::JOB_STATE_RUNNING);
    if (output_bytes > 0) *job.mutable_finish_time() = TimestampOf(clock_.TimeNow());
    job.mutable_result()->set_output_bytes(output_bytes);
    for (const int64_t bytes : checkpoint_bytes) record->add_checkpoints()->set_size_bytes(bytes);
    catalog_.Publish({record});
    return record->id();
  }

  SimulatedClock clock_{absl::FromUnixSeconds(1'800'000'000)};
  SeededRandom random_{1};
  const testing::TempDir temp_;
  const std::string folder_ = temp_.path();
  std::unique_ptr<ResourceStore> resources_;
  Catalog catalog_{clock_};
  std::unique_ptr<MetricRegistry> registry_;
  std::unique_ptr<LimitMetrics> metrics_;
  std::unique_ptr<ProjectLimits> limits_;
};

TEST_F(ProjectLimitsTest, HostsWithoutAKeyKeepUpTheirRateAndManyOfThemTakeNoMemory) {
  ProjectLimits& limits = Limit({.key_request_rate = 1, .failed_authentication_rate = 2});
  for (int i = 0; i < 10; ++i) EXPECT_THAT(limits.AdmitUnknown("10.0.0.7"), IsOk()) << i;
  const absl::Status refused = limits.AdmitUnknown("10.0.0.7");
  ExpectRefused(refused, "FAILED_AUTHENTICATION_RATE", "--max-failed-authentication-rate");
  EXPECT_EQ(RetryDelayOf(refused), absl::Milliseconds(500));
  EXPECT_THAT(limits.AdmitUnknown("10.0.0.8"), IsOk());
  EXPECT_THAT(limits.AdmitRequest(kAda), IsOk()) << "who has a key is not held up";

  // A flood of addresses shares what one may.
  int admitted = 0;
  for (int i = 0; i < 10'000; ++i) admitted += limits.AdmitUnknown(absl::StrCat("h", i)).ok();
  EXPECT_LT(admitted, 4096 + 20);
  EXPECT_FALSE(limits.AdmitUnknown("10.0.0.7").ok()) << "and nobody is forgotten for it";
  clock_.AdvanceTime(ProjectLimits::kBurst);
  EXPECT_THAT(limits.AdmitUnknown("another"), IsOk());
}

TEST_F(ProjectLimitsTest, AKeyKeepsUpItsRateAndMaySaveUpABurst) {
  ProjectLimits& limits = Limit({.key_request_rate = 2, .project_request_rate = 0});
  for (int i = 0; i < 10; ++i) EXPECT_THAT(limits.AdmitRequest(kAda), IsOk()) << i;
  const absl::Status refused = limits.AdmitRequest(kAda);
  ExpectRefused(refused, "KEY_REQUEST_RATE", "--max-key-request-rate");
  EXPECT_EQ(RetryDelayOf(refused), absl::Milliseconds(500));
  EXPECT_THAT(limits.AdmitRequest(kBob), IsOk()) << "another key of the same project";
  // Whoever waits as told gets through, once.
  clock_.AdvanceTime(absl::Milliseconds(500));
  EXPECT_THAT(limits.AdmitRequest(kAda), IsOk());
  ExpectRefused(limits.AdmitRequest(kAda), "KEY_REQUEST_RATE", "--max-key-request-rate", 2);
  // Nothing is saved up beyond the burst.
  clock_.AdvanceTime(absl::Hours(24));
  for (int i = 0; i < 10; ++i) EXPECT_THAT(limits.AdmitRequest(kAda), IsOk()) << i;
  ExpectRefused(limits.AdmitRequest(kAda), "KEY_REQUEST_RATE", "--max-key-request-rate", 3);
}

TEST_F(ProjectLimitsTest, KeysOfAProjectShareItsRate) {
  ProjectLimits& limits = Limit({.key_request_rate = 0, .project_request_rate = 1});
  for (int i = 0; i < 5; ++i) EXPECT_THAT(limits.AdmitRequest(i % 2 ? kAda : kBob), IsOk());
  for (const Caller& caller : {kAda, kBob}) {
    EXPECT_EQ(ReasonOf(limits.AdmitRequest(caller)), "PROJECT_REQUEST_RATE");
  }
  EXPECT_THAT(limits.AdmitRequest(kEve), IsOk()) << "of another project";
}

TEST_F(ProjectLimitsTest, StreamsAreCountedByProjectUntilTheyEnd) {
  ProjectLimits& limits = Limit({.project_streams = 2});
  std::vector<ProjectLimits::Stream> open;
  for (int i = 0; i < 2; ++i) {
    ANNEAL_ASSERT_OK_AND_ASSIGN(ProjectLimits::Stream stream, limits.OpenStream(kProject));
    open.push_back(std::move(stream));
  }
  const absl::Status refused = limits.OpenStream(kProject).status();
  ExpectRefused(refused, "PROJECT_STREAMS", "--max-project-streams");
  EXPECT_TRUE(RetryDelayOf(refused).has_value());
  EXPECT_THAT(limits.OpenStream("other"), IsOk());
  open.pop_back();
  EXPECT_THAT(limits.OpenStream(kProject), IsOk());
}

TEST_F(ProjectLimitsTest, UploadsAreRefusedThatWouldExceedTheProjectsBytes) {
  struct Case {
    std::string name;
    int64_t file = 0;        // already there
    int64_t unfinished = 0;  // uploads begun an hour ago
    int64_t abandoned = 0;   // uploads begun long ago
    int64_t wanted = 0;
    bool fits = true;
  };
  const std::vector<Case> cases = {
      {"nothing yet", 0, 0, 0, 100, true},
      {"too large at once", 0, 0, 0, 101, false},
      {"exactly what is left", 60, 30, 0, 10, true},
      {"files count", 60, 0, 0, 41, false},
      {"unfinished uploads count", 0, 60, 0, 41, false},
      {"abandoned ones have been collected", 0, 0, 60, 100, true},
      {"more is held than the limit, which was lowered", 200, 0, 0, 1, false},
      {"an empty file fits into nothing", 100, 0, 0, 0, true},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    ANNEAL_ASSERT_OK(FileSystem::Posix().RemoveTree(folder_));
    ANNEAL_ASSERT_OK(FileSystem::Posix().MakeFolders(folder_));
    ANNEAL_ASSERT_OK_AND_ASSIGN(resources_, ResourceStore::Open(folder_));
    ProjectLimits& limits = Limit({.project_upload_bytes = 100, .project_storage_bytes = 0});
    if (c.file > 0) PutFile(c.file);
    if (c.unfinished > 0) PutUpload("new", c.unfinished, absl::Hours(1));
    if (c.abandoned > 0) PutUpload("old", c.abandoned, absl::Hours(100));
    PutUpload("finished", 1000, absl::Hours(1), "its file counts, or has been deleted");
    const absl::Status status = limits.AdmitUpload(kProject, c.wanted);
    if (c.fits) {
      EXPECT_THAT(status, IsOk());
    } else {
      ExpectRefused(status, "PROJECT_UPLOADS", "--max-project-uploads");
    }
    EXPECT_THAT(limits.AdmitUpload("other", 100), IsOk());
  }
}

TEST_F(ProjectLimitsTest, FilesModelsAndCheckpointsAddUpToTheProjectsStorage) {
  PutFile(10);
  PutModel(20);
  PublishJob({30, 30});
  ProjectLimits& limits = Limit({.project_upload_bytes = 0, .project_storage_bytes = 100});
  EXPECT_THAT(limits.AdmitStorage(kProject, 0), IsOk());
  EXPECT_THAT(limits.AdmitStorage(kProject, 10), IsOk());
  ExpectRefused(limits.AdmitStorage(kProject, 11), "PROJECT_STORAGE", "--max-project-storage");
  ExpectRefused(limits.AdmitUpload(kProject, 11), "PROJECT_STORAGE", "--max-project-storage", 2);
  EXPECT_THAT(limits.AdmitStorage("other", 100), IsOk());
  // At the limit nothing new begins.
  PublishJob({10});
  ExpectRefused(limits.AdmitStorage(kProject, 0), "PROJECT_STORAGE", "--max-project-storage", 3);
}

TEST_F(ProjectLimitsTest, OutputsCountUntilTheirJobIsDeleted) {
  const std::string job = PublishJob({30}, 60);
  ProjectLimits& limits = Limit({.project_upload_bytes = 0, .project_storage_bytes = 100});
  EXPECT_THAT(limits.AdmitStorage(kProject, 10), IsOk());
  ExpectRefused(limits.AdmitStorage(kProject, 11), "PROJECT_STORAGE", "--max-project-storage");
  ExpectRefused(limits.AdmitUpload(kProject, 11), "PROJECT_STORAGE", "--max-project-storage", 2);
  EXPECT_THAT(limits.AdmitStorage("other", 100), IsOk());
  // Its checkpoints expire, its outputs do not.
  clock_.AdvanceTime(kCheckpointTimeToLive);
  EXPECT_THAT(limits.AdmitStorage(kProject, 40), IsOk());
  ExpectRefused(limits.AdmitStorage(kProject, 41), "PROJECT_STORAGE", "--max-project-storage", 3);
  catalog_.Publish({}, {job});
  EXPECT_THAT(limits.AdmitStorage(kProject, 100), IsOk());
}

TEST_F(ProjectLimitsTest, ZeroIsNoLimit) {
  PutFile(int64_t{1} << 50);
  ProjectLimits& limits = Limit({0, 0, 0, 0, 0, 0, 0, 0});
  std::vector<ProjectLimits::Stream> open;
  for (int i = 0; i < 1000; ++i) {
    EXPECT_THAT(limits.AdmitRequest(kAda), IsOk());
    open.push_back(*limits.OpenStream(kProject));
  }
  EXPECT_THAT(limits.AdmitStorage(kProject, int64_t{1} << 50), IsOk());
  EXPECT_THAT(limits.AdmitUpload(kProject, int64_t{1} << 50), IsOk());
}

}  // namespace
}  // namespace anneal
