#include "coordinator/catalog/catalog_store.h"

#include <optional>
#include <set>
#include <string>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "common/base/start_number.h"
#include "common/base/status.h"
#include "coordinator/catalog/schema.h"
#include "coordinator/catalog/sqlite.h"
#include "coordinator/lifecycle/states.h"

namespace anneal {
namespace {

template <typename Record>
absl::StatusOr<std::vector<Record>> LoadAll(Database& database, absl::string_view sql) {
  ANNEAL_ASSIGN_OR_RETURN(Statement statement, database.Prepare(sql));
  std::vector<Record> records;
  while (true) {
    ANNEAL_ASSIGN_OR_RETURN(const bool found, statement.Step());
    if (!found) return records;
    const absl::string_view bytes = statement.Bytes(0);
    if (!records.emplace_back().ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
      return absl::DataLossError(
          absl::StrCat("the catalog holds a broken ", Record().GetTypeName()));
    }
  }
}

class SqliteCatalogStore : public CatalogStore {
 public:
  explicit SqliteCatalogStore(Database database) : database_(std::move(database)) {}

  absl::StatusOr<int64_t> NextEpoch(absl::Time now) override;
  absl::StatusOr<std::vector<internal::JobRecord>> LoadJobs() override;
  absl::StatusOr<std::vector<internal::WorkerRecord>> LoadWorkers() override;
  absl::StatusOr<std::string> FindMissingResource(const internal::JobRecord& record) override;
  void Release() override;
  absl::Status Commit(const CatalogChange& change) override;

 private:
  // Parts of Commit's transaction.
  absl::Status PutJobs(const std::vector<std::shared_ptr<const internal::JobRecord>>& jobs);
  absl::Status PutWorkers(const std::vector<internal::WorkerRecord>& workers);

  Database database_;
  // Begun by FindMissingResource for the next Commit; and what it has found since, project first.
  std::optional<Transaction> begun_;
  std::set<std::pair<std::string, std::string>> found_;
};

absl::StatusOr<int64_t> SqliteCatalogStore::NextEpoch(absl::Time now) {
  // We are the only one who writes it: no other coordinator can have the folder.
  ANNEAL_ASSIGN_OR_RETURN(Statement read, database_.Prepare("SELECT epoch FROM coordinator"));
  ANNEAL_ASSIGN_OR_RETURN(const bool found, read.Step());
  ANNEAL_CHECK(found);
  const int64_t epoch = NextStartNumber(read.Int(0), now);
  read.Reset();
  ANNEAL_ASSIGN_OR_RETURN(Statement write, database_.Prepare("UPDATE coordinator SET epoch = ?"));
  ANNEAL_RETURN_IF_ERROR(write.Bind(epoch).Run());
  return epoch;
}

absl::StatusOr<std::vector<internal::JobRecord>> SqliteCatalogStore::LoadJobs() {
  return LoadAll<internal::JobRecord>(database_, "SELECT record FROM jobs ORDER BY id");
}

absl::StatusOr<std::vector<internal::WorkerRecord>> SqliteCatalogStore::LoadWorkers() {
  return LoadAll<internal::WorkerRecord>(database_, "SELECT record FROM workers ORDER BY name");
}

absl::StatusOr<std::string> SqliteCatalogStore::FindMissingResource(
    const internal::JobRecord& record) {
  const std::string& project = record.job().project();
  for (const std::string& resource : record.inputs().resources()) {
    if (!begun_.has_value()) {
      ANNEAL_ASSIGN_OR_RETURN(Transaction transaction, Transaction::Begin(database_));
      begun_.emplace(std::move(transaction));
    }
    std::pair wanted{project, resource};
    if (found_.contains(wanted)) continue;
    const size_t slash = resource.find('/');
    const absl::string_view table = absl::string_view(resource).substr(0, slash);
    ANNEAL_CHECK(table == "files" || table == "models" || table == "jobs");
    ANNEAL_ASSIGN_OR_RETURN(
        Statement statement,
        database_.Prepare(absl::StrCat("SELECT 1 FROM ", table, " WHERE id = ? AND project = ?")));
    const absl::string_view id = absl::string_view(resource).substr(slash + 1);
    ANNEAL_ASSIGN_OR_RETURN(const bool found, statement.Bind(id).Bind(project).Step());
    if (!found) return resource;
    found_.insert(std::move(wanted));
  }
  return std::string();
}

void SqliteCatalogStore::Release() {
  found_.clear();
  begun_.reset();
}

absl::Status SqliteCatalogStore::PutJobs(
    const std::vector<std::shared_ptr<const internal::JobRecord>>& jobs) {
  ANNEAL_ASSIGN_OR_RETURN(
      Statement put, database_.Prepare("INSERT INTO jobs VALUES (?, ?, NULLIF(?, ''), ?) "
                                       "ON CONFLICT (id) DO UPDATE SET record = excluded.record"));
  ANNEAL_ASSIGN_OR_RETURN(Statement hold,
                          database_.Prepare("INSERT OR IGNORE INTO job_resources VALUES (?, ?)"));
  ANNEAL_ASSIGN_OR_RETURN(Statement release,
                          database_.Prepare("DELETE FROM job_resources WHERE job = ?"));
  for (const auto& record : jobs) {
    ANNEAL_RETURN_IF_ERROR(put.Bind(record->id())
                               .Bind(record->job().project())
                               .Bind(record->request_id())
                               .BindBlob(record->SerializeAsString())
                               .Run());
    put.Reset();
    if (IsTerminal(record->job().state())) {
      ANNEAL_RETURN_IF_ERROR(release.Bind(record->id()).Run());
      release.Reset();
      continue;
    }
    for (const std::string& resource : record->inputs().resources()) {
      ANNEAL_RETURN_IF_ERROR(hold.Bind(record->id()).Bind(resource).Run());
      hold.Reset();
    }
  }
  return absl::OkStatus();
}

absl::Status SqliteCatalogStore::PutWorkers(const std::vector<internal::WorkerRecord>& workers) {
  ANNEAL_ASSIGN_OR_RETURN(Statement put,
                          database_.Prepare("INSERT OR REPLACE INTO workers VALUES (?, ?)"));
  for (const internal::WorkerRecord& worker : workers) {
    ANNEAL_RETURN_IF_ERROR(put.Bind(worker.name()).BindBlob(worker.SerializeAsString()).Run());
    put.Reset();
  }
  return absl::OkStatus();
}

absl::Status SqliteCatalogStore::Commit(const CatalogChange& change) {
  const auto release = absl::MakeCleanup([this] { Release(); });
  if (!begun_.has_value()) {
    ANNEAL_ASSIGN_OR_RETURN(Transaction transaction, Transaction::Begin(database_));
    begun_.emplace(std::move(transaction));
  }
  ANNEAL_RETURN_IF_ERROR(PutJobs(change.jobs));
  {
    ANNEAL_ASSIGN_OR_RETURN(Statement append,
                            database_.Prepare("INSERT INTO job_events VALUES (?, ?, ?)"));
    for (const auto& [job, event] : change.events) {
      ANNEAL_RETURN_IF_ERROR(
          append.Bind(job).Bind(event.sequence()).BindBlob(event.SerializeAsString()).Run());
      append.Reset();
    }
    ANNEAL_ASSIGN_OR_RETURN(Statement remove, database_.Prepare("DELETE FROM jobs WHERE id = ?"));
    for (const std::string& job : change.deleted_jobs) {
      ANNEAL_RETURN_IF_ERROR(remove.Bind(job).Run());
      remove.Reset();
    }
  }
  ANNEAL_RETURN_IF_ERROR(PutWorkers(change.workers));
  ANNEAL_RETURN_IF_ERROR(AddUsage(change.usage, database_));
  return begun_->Commit();
}

}  // namespace

absl::StatusOr<std::unique_ptr<CatalogStore>> CatalogStore::Open(const std::string& data_dir) {
  ANNEAL_ASSIGN_OR_RETURN(Database database, OpenCatalogDatabase(data_dir));
  return std::make_unique<SqliteCatalogStore>(std::move(database));
}

}  // namespace anneal
