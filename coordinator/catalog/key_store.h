#pragma once
// API keys in the catalog.

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "anneal/internal/catalog.pb.h"
#include "coordinator/catalog/sqlite.h"

namespace anneal {

// Purpose: durable records of API keys, which hold their digests alone. A call returns after its
// own transaction is on disk. Owner: Coordinator. Thread-safe.
class KeyStore {
 public:
  // Opens the catalog in `data_dir`, making it if it is not there.
  static absl::StatusOr<std::unique_ptr<KeyStore>> Open(const std::string& data_dir);

  absl::Status Put(const internal::KeyRecord& key);
  // NOT_FOUND if there is none.
  absl::StatusOr<internal::KeyRecord> Get(absl::string_view id);
  // Newest first, ids below `before_id` (empty = from the newest), at most `limit`.
  absl::StatusOr<std::vector<internal::KeyRecord>> List(absl::string_view before_id, int limit);

 private:
  explicit KeyStore(Database database) : database_(std::move(database)) {}

  absl::Mutex mu_;
  Database database_ ABSL_GUARDED_BY(mu_);
};

}  // namespace anneal
