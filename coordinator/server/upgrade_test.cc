// Catalogs of older versions (tests/golden/catalog) under this one, and of a newer one.

#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "anneal/v1/file_service.grpc.pb.h"
#include "anneal/v1/key_service.grpc.pb.h"
#include "anneal/v1/model_service.grpc.pb.h"
#include "common/base/file.h"
#include "coordinator/catalog/schema.h"
#include "coordinator/catalog/sqlite.h"
#include "coordinator/server/testing/coordinator_fixture.h"

namespace anneal {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

// Whoever made the golden catalogs.
constexpr char kTesterKey[] = "tester-key-0123456789abcdef";

std::string GoldenCatalog(int64_t version) {
  return absl::StrCat("tests/golden/catalog/catalog_v", version, ".sql");
}

class UpgradeTest : public testing::CoordinatorFixture {
 protected:
  void SetUp() override {
    CoordinatorFixture::SetUp();
    coordinator_.reset();
    newest_ = SchemaVersion();
    std::filesystem::permissions(folder_ + "/credentials", std::filesystem::perms::owner_all);
    std::ofstream(folder_ + "/credentials", std::ios::app) << kTesterKey << " default tester\n";
  }

  int64_t SchemaVersion() const {
    Database database =
        *Database::Open(options_.data_dir + "/catalog.db", Database::Synchronous::kFull);
    Statement statement = *database.Prepare("PRAGMA user_version");
    EXPECT_TRUE(*statement.Step());
    return statement.Int(0);
  }
  void InstallCatalog(int64_t version) {
    coordinator_.reset();
    std::filesystem::remove_all(options_.data_dir);
    std::filesystem::create_directory(options_.data_dir);
    std::ifstream file(GoldenCatalog(version));
    const std::string sql{std::istreambuf_iterator<char>(file), {}};
    ASSERT_NE(sql, "") << "make it with tests/golden/catalog/make.py at the last commit of schema "
                       << version;
    ANNEAL_ASSERT_OK_AND_ASSIGN(Database database, Database::Open(options_.data_dir + "/catalog.db",
                                                                  Database::Synchronous::kFull));
    // Files of that time have smaller pages, and keep them.
    ANNEAL_ASSERT_OK(
        database.Execute("PRAGMA journal_mode=DELETE; PRAGMA page_size=4096; VACUUM; "
                         "PRAGMA journal_mode=WAL"));
    // Its tables come in the order of their names.
    ANNEAL_ASSERT_OK(database.Execute("PRAGMA foreign_keys=OFF"));
    ANNEAL_ASSERT_OK(database.Execute(sql));
  }
  int64_t PageBytes() {
    const std::string path = options_.data_dir + "/catalog.db";
    const absl::StatusOr<std::string> file = ReadSmallFile(path);
    EXPECT_THAT(file, IsOk());
    // Bytes 16 and 17 of the header: https://www.sqlite.org/fileformat2.html
    return file.ok() ? (static_cast<uint8_t>((*file)[16]) << 8) + static_cast<uint8_t>((*file)[17])
                     : 0;
  }

  int64_t newest_ = 0;
};

TEST_F(UpgradeTest, CatalogsOfAllOlderVersionsAreCarriedOn) {
  ASSERT_GT(newest_, 1);
  for (int64_t version = 1; version < newest_; ++version) {
    SCOPED_TRACE(version);
    InstallCatalog(version);
    StartCoordinator();
    EXPECT_EQ(PageBytes(), 4096);
    ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::ListJobsResponse listed,
                                Call(*jobs_, &Jobs::ListJobs, v1::ListJobsRequest(), kTesterKey));
    std::map<std::string, v1::Job> jobs;
    for (const v1::Job& job : listed.jobs()) jobs[job.resolved().spec().display_name()] = job;
    ASSERT_EQ(jobs.size(), 3u);
    EXPECT_EQ(jobs["trained"].state(), v1::JOB_STATE_SUCCEEDED);
    EXPECT_EQ(jobs["trained"].creator(), "tester");
    EXPECT_EQ(jobs["trained"].progress().step(), 3);
    EXPECT_EQ(jobs["cancelled"].state(), v1::JOB_STATE_CANCELLED);
    EXPECT_EQ(jobs["waiting"].state(), v1::JOB_STATE_PENDING);

    v1::ListJobEventsRequest events;
    events.set_name(jobs["trained"].name());
    ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::ListJobEventsResponse history,
                                Call(*jobs_, &Jobs::ListJobEvents, events, kTesterKey));
    EXPECT_EQ(history.events_size(), 7);
    ANNEAL_ASSERT_OK_AND_ASSIGN(
        const v1::ListFilesResponse files,
        Call(*v1::FileService::NewStub(channel_), &v1::FileService::Stub::ListFiles,
             v1::ListFilesRequest(), kTesterKey));
    EXPECT_EQ(files.files_size(), 1);
    ANNEAL_ASSERT_OK_AND_ASSIGN(
        const v1::ListModelsResponse models,
        Call(*v1::ModelService::NewStub(channel_), &v1::ModelService::Stub::ListModels,
             v1::ListModelsRequest(), kTesterKey));
    EXPECT_EQ(models.models_size(), 1);

    // What waited goes on, on a worker that may have it: w0 is still drained.
    auto drained = StartWorker("w0", 1, int64_t{1} << 62);
    auto worker = StartWorker("w1", 1);
    const internal::Desired desired = worker->AwaitTasks(1);
    EXPECT_EQ(absl::StrCat("jobs/", desired.tasks(0).id().job()), jobs["waiting"].name());

    // What slots did before they had an account is booked.
    ANNEAL_ASSERT_OK_AND_ASSIGN(
        const v1::ListUsageResponse usage,
        Call(*cluster_, &v1::ClusterService::Stub::ListUsage, v1::ListUsageRequest(), kTesterKey));
    ASSERT_EQ(usage.usage_size(), 1);
    EXPECT_EQ(usage.usage(0).creator(), "tester");
    EXPECT_GT(usage.usage(0).useful_slot_seconds(), 0);
    EXPECT_DOUBLE_EQ(usage.usage(0).useful_slot_seconds(), jobs["trained"].usage().slot_seconds());

    const auto keys =
        v1::KeyService::NewStub(*MakeChannel({.target = "unix:" + options_.admin_socket}));
    ANNEAL_ASSERT_OK_AND_ASSIGN(
        const v1::ListKeysResponse kept,
        Call(*keys, &v1::KeyService::Stub::ListKeys, v1::ListKeysRequest(), ""));
    EXPECT_EQ(kept.keys_size(), version >= 2 ? 1 : 0) << "version 2 brought them";

    // And what the new version brings is there.
    v1::CreateKeyRequest key;
    key.set_role(v1::Key::ROLE_USER);
    key.set_project("default");
    key.set_creator("ada");
    EXPECT_THAT(Call(*keys, &v1::KeyService::Stub::CreateKey, key, ""), IsOk());
    coordinator_.reset();
    EXPECT_EQ(SchemaVersion(), newest_);
  }
}

TEST_F(UpgradeTest, ACatalogOfANewerVersionIsRefusedAndLeftAsItIs) {
  {
    ANNEAL_ASSERT_OK_AND_ASSIGN(Database database, OpenCatalogDatabase(options_.data_dir));
    ANNEAL_ASSERT_OK(database.Execute(absl::StrCat("PRAGMA user_version=", newest_ + 1)));
  }
  EXPECT_THAT(Coordinator::Start(options_, Clock::Real(), random_),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("catalog.db"),
                             HasSubstr(absl::StrCat("schema version ", newest_ + 1)),
                             HasSubstr("newer anneal-coordinator"), HasSubstr("backup"))));
  EXPECT_EQ(SchemaVersion(), newest_ + 1);
}

}  // namespace
}  // namespace anneal
