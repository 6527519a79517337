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
      if (absl::Status status = database.Execute("PRAGMA wal_checkpoint(PASSIVE)"); !status.ok())
        ANNEAL_LOG(WARNING) << "log of the catalog stays" << Field("why", status.message());
    }
  }
}

}  // namespace anneal
