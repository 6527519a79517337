#include "coordinator/catalog/key_store.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "coordinator/catalog/records.h"
#include "coordinator/catalog/schema.h"

namespace anneal {

absl::StatusOr<std::unique_ptr<KeyStore>> KeyStore::Open(const std::string& data_dir) {
  ANNEAL_ASSIGN_OR_RETURN(Database database, OpenCatalogDatabase(data_dir));
  return std::unique_ptr<KeyStore>(new KeyStore(std::move(database)));
}

absl::Status KeyStore::Put(const internal::KeyRecord& key) {
  absl::MutexLock lock(&mu_);
  ANNEAL_ASSIGN_OR_RETURN(Statement statement,
                          database_.Prepare("INSERT OR REPLACE INTO keys VALUES (?, ?)"));
  return statement.Bind(key.id()).BindBlob(key.SerializeAsString()).Run();
}

absl::StatusOr<internal::KeyRecord> KeyStore::Get(absl::string_view id) {
  absl::MutexLock lock(&mu_);
  ANNEAL_ASSIGN_OR_RETURN(Statement statement,
                          database_.Prepare("SELECT record FROM keys WHERE id = ?"));
  return OnlyRecord<internal::KeyRecord>(statement.Bind(id), absl::StrCat("keys/", id));
}

absl::StatusOr<std::vector<internal::KeyRecord>> KeyStore::List(absl::string_view before_id,
                                                                int limit) {
  absl::MutexLock lock(&mu_);
  ANNEAL_ASSIGN_OR_RETURN(Statement statement,
                          database_.Prepare("SELECT record FROM keys WHERE ?1 = '' OR id < ?1 "
                                            "ORDER BY id DESC LIMIT ?2"));
  return AllRecords<internal::KeyRecord>(
      statement.Bind(before_id).Bind(static_cast<int64_t>(limit)));
}

}  // namespace anneal
