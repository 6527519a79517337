#pragma once
// Who has held slots for how long: the table usage.

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "anneal/v1/job.pb.h"
#include "coordinator/catalog/sqlite.h"
#include "coordinator/lifecycle/slot_account.h"

namespace anneal {

// What a row is of. Rows come in this order.
struct UsageKey {
  int64_t day = 0;  // since 1970, in UTC
  // Both empty for slots that no job held.
  std::string project, creator;
  v1::ResourceSpec::Accelerator accelerator = v1::ResourceSpec::ACCELERATOR_UNSPECIFIED;

  auto operator<=>(const UsageKey&) const = default;
};
struct UsageSeconds {
  SlotTime held;    // by jobs
  double free = 0;  // by nobody
};
using UsageRows = std::map<UsageKey, UsageSeconds>;

// Adds the rows to what the table has. Part of CatalogStore's transaction.
absl::Status AddUsage(const UsageRows& rows, Database& database);

// Purpose: reads for handlers, on a connection of its own, so that readers never wait for the
// loop's commits. Owner: Coordinator. Thread-safe.
class UsageLedger {
 public:
  static absl::StatusOr<std::unique_ptr<UsageLedger>> Open(const std::string& data_dir);

  struct Query {
    int64_t first_day = 0, last_day = 0;  // inclusive
    // Nothing = of all projects, and free slots.
    std::optional<std::string> project;
  };
  // In the order of keys, those above `after` (the default is below all), at most `limit`.
  absl::StatusOr<std::vector<std::pair<UsageKey, UsageSeconds>>> Read(const Query& query,
                                                                      const UsageKey& after,
                                                                      int limit);

 private:
  explicit UsageLedger(Database database) : database_(std::move(database)) {}

  absl::Mutex mu_;
  Database database_ ABSL_GUARDED_BY(mu_);
};

}  // namespace anneal
