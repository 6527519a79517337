#include "coordinator/catalog/usage_ledger.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "coordinator/catalog/catalog_store.h"

namespace anneal {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr auto kCpu = v1::ResourceSpec::ACCELERATOR_CPU;
constexpr auto kGpu = v1::ResourceSpec::ACCELERATOR_GPU;

class UsageLedgerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ANNEAL_ASSERT_OK_AND_ASSIGN(store_, CatalogStore::Open(temp_.path()));
    ANNEAL_ASSERT_OK_AND_ASSIGN(ledger_, UsageLedger::Open(temp_.path()));
  }
  absl::Status Commit(const UsageRows& usage, const std::string& deleted_job = "") {
    CatalogChange change;
    change.usage = usage;
    if (!deleted_job.empty()) change.deleted_jobs.push_back(deleted_job);
    return store_->Commit(change);
  }
  // "day project/creator accelerator: useful redone lost idle free"
  std::vector<std::string> Read(const UsageLedger::Query& query, const UsageKey& after = {},
                                int limit = 100) {
    const auto rows = ledger_->Read(query, after, limit);
    EXPECT_TRUE(rows.ok()) << rows.status();
    std::vector<std::string> texts;
    for (const auto& [key, seconds] : *rows) {
      texts.push_back(absl::StrCat(key.day, " ", key.project, "/", key.creator, " ",
                                   key.accelerator, ": ", seconds.held.useful, " ",
                                   seconds.held.redone, " ", seconds.held.lost, " ",
                                   seconds.held.idle, " ", seconds.free));
    }
    return texts;
  }

  const testing::TempDir temp_;
  std::unique_ptr<CatalogStore> store_;
  std::unique_ptr<UsageLedger> ledger_;
};

const UsageLedger::Query kAll{.first_day = 0, .last_day = 100000};

TEST_F(UsageLedgerTest, RowsAreAddedToAndOutliveTheirJobsAndTheProcess) {
  auto job = std::make_shared<internal::JobRecord>();
  job->set_id("a");
  job->mutable_job()->set_project("p");
  CatalogChange change;
  change.jobs.push_back(job);
  change.usage[{7, "p", "ada", kCpu}].held = {.useful = 10, .idle = 2.5};
  ANNEAL_ASSERT_OK(store_->Commit(change));
  // What was useful turns out to be redone.
  ANNEAL_ASSERT_OK(Commit({{{7, "p", "ada", kCpu}, {{.useful = -4, .redone = 4}, 0}},
                           {{7, "p", "ada", kGpu}, {{.lost = 1}, 0}},
                           {{7, "", "", kCpu}, {{}, 30}}},
                          "a"));
  EXPECT_THAT(Read(kAll),
              ElementsAre("7 / 2: 0 0 0 0 30", "7 p/ada 2: 6 4 0 2.5 0", "7 p/ada 3: 0 0 1 0 0"));
  ANNEAL_ASSERT_OK_AND_ASSIGN(store_, CatalogStore::Open(temp_.path()));
  ANNEAL_ASSERT_OK_AND_ASSIGN(ledger_, UsageLedger::Open(temp_.path()));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto jobs, store_->LoadJobs());
  EXPECT_THAT(jobs, IsEmpty());
  EXPECT_EQ(Read(kAll).size(), 3u);
}

TEST_F(UsageLedgerTest, ATurnThatFailsBooksNothing) {
  CatalogChange change;
  change.usage[{7, "p", "ada", kCpu}].held = {.useful = 10};
  v1::JobEvent event;
  event.set_sequence(1);
  change.events.emplace_back("nobody", event);  // there is no such job
  EXPECT_FALSE(store_->Commit(change).ok());
  EXPECT_THAT(Read(kAll), IsEmpty());
}

TEST_F(UsageLedgerTest, ReadersChooseDaysAndProjectAndGoOnWhereTheyStopped) {
  UsageRows rows;
  for (int64_t day = 1; day <= 3; ++day) {
    for (const char* project : {"", "other", "p"}) {
      rows[{day, project, project[0] == '\0' ? "" : "ada", kCpu}].held.useful =
          static_cast<double>(day);
    }
  }
  ANNEAL_ASSERT_OK(Commit(rows));
  EXPECT_EQ(Read(kAll).size(), 9u);
  EXPECT_THAT(Read({.first_day = 2, .last_day = 3, .project = "p"}),
              ElementsAre("2 p/ada 2: 2 0 0 0 0", "3 p/ada 2: 3 0 0 0 0"));
  EXPECT_THAT(Read({.first_day = 1, .last_day = 2}, {1, "other", "ada", kCpu}, 2),
              ElementsAre("1 p/ada 2: 1 0 0 0 0", "2 / 2: 2 0 0 0 0"));
  EXPECT_THAT(Read({.first_day = 0, .last_day = 9, .project = ""}).size(), 3u);
}

}  // namespace
}  // namespace anneal
