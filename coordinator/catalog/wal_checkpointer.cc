#include "coordinator/catalog/wal_checkpointer.h"

#include <utility>

#include "absl/time/time.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "coordinator/catalog/schema.h"

namespace anneal {
namespace {

// Where nothing was committed it costs two system calls.
constexpr absl::Duration kEvery = absl::Milliseconds(250);
// A log of so many pages begins anew: half of what a commit would do so at itself.
constexpr int64_t kLongLogPages = kLargestWalPages / 2;

// Moves what it can without keeping anybody waiting; the log's pages.
absl::StatusOr<int64_t> Checkpoint(Database& database) {
  ANNEAL_ASSIGN_OR_RETURN(Statement statement, database.Prepare("PRAGMA wal_checkpoint(PASSIVE)"));
  ANNEAL_ASSIGN_OR_RETURN(const bool found, statement.Step());
  return found ? statement.Int(1) : 0;
}

absl::Status CheckpointOf(Database& database) {
  ANNEAL_ASSIGN_OR_RETURN(const int64_t pages, Checkpoint(database));
  if (pages < kLongLogPages) return absl::OkStatus();
  // Those committed meanwhile, so that the next leaves as few as can be to the one that commits
  // wait for.
  ANNEAL_RETURN_IF_ERROR(Checkpoint(database).status());
  return database.Execute("PRAGMA wal_checkpoint(RESTART)");
}

}  // namespace

absl::StatusOr<std::unique_ptr<WalCheckpointer>> WalCheckpointer::Start(const std::string& data_dir,
                                                                        Clock& clock) {
  std::vector<Database> databases;
  ANNEAL_ASSIGN_OR_RETURN(Database catalog, OpenCatalogDatabase(data_dir));
  databases.push_back(std::move(catalog));
  ANNEAL_ASSIGN_OR_RETURN(Database metrics, OpenMetricsDatabase(data_dir));
  databases.push_back(std::move(metrics));
  return std::unique_ptr<WalCheckpointer>(new WalCheckpointer(std::move(databases), clock));
}

WalCheckpointer::WalCheckpointer(std::vector<Database> databases, Clock& clock)
    : databases_(std::move(databases)),
      clock_(clock),
      thread_("wal-checkpoint", [this] { Run(); }) {}

WalCheckpointer::~WalCheckpointer() {
  absl::MutexLock lock(&mu_);
  stopping_ = true;
}

void WalCheckpointer::Run() {
  while (true) {
    {
      absl::MutexLock lock(&mu_);
      if (clock_.AwaitWithTimeout(&mu_, absl::Condition(&stopping_), kEvery)) return;
    }
    for (Database& database : databases_) {
      // A full disk is the commits' to report: what is in the log stays there and is read there.
      if (absl::Status status = CheckpointOf(database); !status.ok())
        ANNEAL_LOG(WARNING) << "log of the catalog stays" << Field("why", status.message());
    }
  }
}

}  // namespace anneal
