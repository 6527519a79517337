#include "coordinator/catalog/wal_checkpointer.h"

#include <filesystem>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "coordinator/catalog/catalog_store.h"
#include "gmock/gmock.h"

namespace anneal {
namespace {

// Jobs in a copy of the database's file alone, without its log.
size_t JobsInTheFile(const std::string& dir, const std::string& copy) {
  std::filesystem::create_directory(copy);
  std::filesystem::copy(dir + "/catalog.db", copy + "/catalog.db",
                        std::filesystem::copy_options::overwrite_existing);
  const auto store = CatalogStore::Open(copy);
  // The copy may be of a moment in between.
  if (!store.ok()) return 0;
  const auto jobs = (*store)->LoadJobs();
  return jobs.ok() ? jobs->size() : 0;
}

TEST(WalCheckpointerTest, CommitsReachTheFileWithoutTheirDoing) {
  const testing::TempDir folder;
  const std::string dir = folder.path() + "/data";
  std::filesystem::create_directory(dir);
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto store, CatalogStore::Open(dir));
  // More than SQLite's own 1,000 pages, and far less than kLargestWalPages.
  constexpr int kJobs = 1500;
  for (int i = 0; i < kJobs;) {
    CatalogChange change;
    for (const int end = i + 100; i < end; ++i) {
      auto record = std::make_shared<internal::JobRecord>();
      record->set_id(absl::StrCat("job", i));
      record->mutable_job()->set_state_message(std::string(3000, 'x'));
      change.jobs.push_back(std::move(record));
    }
    ANNEAL_ASSERT_OK(store->Commit(change));
  }
  EXPECT_EQ(JobsInTheFile(dir, folder.path() + "/before"), 0u) << "a commit has moved the log";
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto checkpointer, WalCheckpointer::Start(dir, Clock::Real()));
  for (int look = 0; JobsInTheFile(dir, absl::StrCat(folder.path(), "/after", look)) != kJobs;
       ++look)
    ASSERT_LT(look, 1000);
  // Nothing is lost that is committed in the meantime.
  auto last = std::make_shared<internal::JobRecord>();
  last->set_id("last");
  ANNEAL_ASSERT_OK(store->Commit({{last}, {}, {}, {}}));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto jobs, store->LoadJobs());
  EXPECT_EQ(jobs.size(), kJobs + 1u);
}

}  // namespace
}  // namespace anneal
