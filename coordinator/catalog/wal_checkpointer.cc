#include "coordinator/catalog/wal_checkpointer.h"

#include <algorithm>
#include <utility>

#include "absl/time/time.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "coordinator/catalog/schema.h"

namespace anneal {
namespace {

// Where nothing was committed a pass costs two system calls. To make the pages of a quarter of a
// second durable at once would keep commits from the disk for several milliseconds.
constexpr absl::Duration kEvery = absl::Milliseconds(40);
// Most of a slow disk's time is the commits': a pass is followed by a pause so many times as long.
constexpr int kPause = 10;
constexpr absl::Duration kLongestPause = absl::Milliseconds(250);
// A log of so many pages, 32 MiB, begins anew: what is written over is durable sooner than what
// makes a file longer. A commit would do so itself at four times as many.
constexpr int64_t kLongLogPages = kLargestWalPages / 4;
// After a try so many pages more come before the next: a reader that stays, such as somebody's
// backup, must not make commits wait each time.
constexpr int64_t kPagesBetweenTries = kLongLogPages / 4;
// For which commits wait until such a reader goes, at most.
constexpr absl::Duration kPatience = absl::Milliseconds(20);

// Moves what it can without keeping anybody waiting; the log's pages.
absl::StatusOr<int64_t> Checkpoint(Database& database) {
  ANNEAL_ASSIGN_OR_RETURN(Statement statement, database.Prepare("PRAGMA wal_checkpoint(PASSIVE)"));
  ANNEAL_ASSIGN_OR_RETURN(const bool found, statement.Step());
  return found ? statement.Int(1) : 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<WalCheckpointer>> WalCheckpointer::Start(const std::string& data_dir,
                                                                        Clock& clock) {
  ANNEAL_ASSIGN_OR_RETURN(Database catalog, OpenCatalogDatabase(data_dir));
  ANNEAL_ASSIGN_OR_RETURN(Database metrics, OpenMetricsDatabase(data_dir));
  std::vector<Log> logs;
  for (Database* database : {&catalog, &metrics}) {
    database->SetPatience(kPatience);
    logs.push_back({std::move(*database), kLongLogPages});
  }
  return std::unique_ptr<WalCheckpointer>(new WalCheckpointer(std::move(logs), clock));
}

WalCheckpointer::WalCheckpointer(std::vector<Log> logs, Clock& clock)
    : logs_(std::move(logs)), clock_(clock), thread_("wal-checkpoint", [this] { Run(); }) {}

WalCheckpointer::~WalCheckpointer() {
  absl::MutexLock lock(&mu_);
  stopping_ = true;
}

absl::Status WalCheckpointer::Move(Log& log) {
  ANNEAL_ASSIGN_OR_RETURN(const int64_t pages, Checkpoint(log.database));
  if (pages < kLongLogPages) log.try_at_pages = kLongLogPages;
  if (pages < log.try_at_pages) return absl::OkStatus();
  log.try_at_pages = pages + kPagesBetweenTries;
  // Those committed meanwhile, so that the next leaves as few as can be to the one that commits
  // wait for.
  ANNEAL_RETURN_IF_ERROR(Checkpoint(log.database).status());
  return log.database.Execute("PRAGMA wal_checkpoint(RESTART)");
}

void WalCheckpointer::Run() {
  absl::Duration pause = kEvery;
  while (true) {
    {
      absl::MutexLock lock(&mu_);
      if (clock_.AwaitWithTimeout(&mu_, absl::Condition(&stopping_), pause)) return;
    }
    const absl::Duration began = clock_.MonotonicNow();
    bool moved = true;
    for (Log& log : logs_) {
      // A full disk is the commits' to report: what is in the log stays there and is read there.
      const absl::Status status = Move(log);
      if (status.ok()) continue;
      ANNEAL_LOG(WARNING) << "log of the catalog stays" << Field("why", status.message());
      moved = false;
    }
    pause = moved ? std::clamp((clock_.MonotonicNow() - began) * kPause, kEvery, kLongestPause)
                  : kLongestPause;
  }
}

}  // namespace anneal
