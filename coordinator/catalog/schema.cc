#include "coordinator/catalog/schema.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "common/base/status.h"

namespace anneal {
namespace {

// Entry N brings version N to N + 1. Entries are never changed once released, only added.
constexpr const char* kCatalogMigrations[] = {
    R"sql(
CREATE TABLE coordinator (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), epoch INTEGER NOT NULL);
INSERT INTO coordinator VALUES (1, 0);

CREATE TABLE jobs (
  id TEXT PRIMARY KEY, project TEXT NOT NULL,
  request_id TEXT,                                 -- NULL if the client sent none
  record BLOB NOT NULL,                            -- anneal.internal.JobRecord
  UNIQUE (project, request_id)) WITHOUT ROWID;

CREATE TABLE job_events (
  job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE, sequence INTEGER NOT NULL,
  event BLOB NOT NULL,                             -- anneal.v1.JobEvent
  PRIMARY KEY (job, sequence)) WITHOUT ROWID;

-- What live jobs read; a file or model listed here cannot be deleted.
CREATE TABLE job_resources (
  job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE, resource TEXT NOT NULL,
  PRIMARY KEY (job, resource)) WITHOUT ROWID;
CREATE INDEX job_resources_by_resource ON job_resources (resource);

CREATE TABLE files (
  id TEXT PRIMARY KEY, project TEXT NOT NULL, sha256 TEXT NOT NULL, display_name TEXT NOT NULL,
  record BLOB NOT NULL) WITHOUT ROWID;             -- anneal.internal.FileRecord
CREATE INDEX files_by_content ON files (project, sha256, display_name);

CREATE TABLE models (
  project TEXT NOT NULL, id TEXT NOT NULL,
  record BLOB NOT NULL,                            -- anneal.internal.ModelRecord
  PRIMARY KEY (project, id)) WITHOUT ROWID;

CREATE TABLE uploads (
  project TEXT NOT NULL, upload_id TEXT NOT NULL,
  record BLOB NOT NULL,                            -- anneal.internal.UploadRecord
  PRIMARY KEY (project, upload_id)) WITHOUT ROWID;

CREATE TABLE workers (
  name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;  -- anneal.internal.WorkerRecord
)sql",
    R"sql(
CREATE TABLE keys (
  id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;    -- anneal.internal.KeyRecord
)sql",
    R"sql(
-- Slot-seconds, added to and never deleted; project and creator are empty for free slots.
CREATE TABLE usage (
  day INTEGER NOT NULL,                            -- since 1970, in UTC
  project TEXT NOT NULL, creator TEXT NOT NULL,
  accelerator INTEGER NOT NULL,                    -- anneal.v1.ResourceSpec.Accelerator
  useful REAL NOT NULL, redone REAL NOT NULL, lost REAL NOT NULL, idle REAL NOT NULL,
  free REAL NOT NULL,
  PRIMARY KEY (day, project, creator, accelerator)) WITHOUT ROWID;
)sql",
};

constexpr const char* kMetricsMigrations[] = {
    R"sql(
CREATE TABLE steps (
  job TEXT NOT NULL, step INTEGER NOT NULL, generation INTEGER NOT NULL,
  metrics BLOB NOT NULL,                           -- anneal.v1.StepMetrics
  PRIMARY KEY (job, step)) WITHOUT ROWID;

CREATE TABLE evaluations (
  job TEXT NOT NULL, step INTEGER NOT NULL, generation INTEGER NOT NULL,
  point BLOB NOT NULL,                             -- anneal.v1.EvaluationPoint
  PRIMARY KEY (job, step)) WITHOUT ROWID;
)sql",
};

absl::Status Migrate(Database& database, absl::Span<const char* const> migrations) {
  ANNEAL_ASSIGN_OR_RETURN(Transaction transaction, Transaction::Begin(database));
  int64_t version = 0;
  {
    ANNEAL_ASSIGN_OR_RETURN(Statement statement, database.Prepare("PRAGMA user_version"));
    ANNEAL_RETURN_IF_ERROR(statement.Run());
    version = statement.Int(0);
  }
  const int64_t newest = static_cast<int64_t>(migrations.size());
  if (version > newest) {
    return absl::FailedPreconditionError(
        absl::StrCat("schema version ", version, " is newer than this program's ", newest,
                     ": start a newer anneal-coordinator, or restore "
                     "the backup from before the upgrade"));
  }
  for (int64_t i = version; i < newest; ++i)
    ANNEAL_RETURN_IF_ERROR(database.Execute(migrations[i]));
  ANNEAL_RETURN_IF_ERROR(database.Execute(absl::StrCat("PRAGMA user_version=", newest)));
  return transaction.Commit();
}

absl::StatusOr<Database> OpenAndMigrate(const std::string& path, Database::Synchronous synchronous,
                                        absl::Span<const char* const> migrations) {
  ANNEAL_ASSIGN_OR_RETURN(Database database, Database::Open(path, synchronous));
  ANNEAL_RETURN_IF_ERROR(Annotate(Migrate(database, migrations), path));
  return database;
}

}  // namespace

absl::StatusOr<Database> OpenCatalogDatabase(const std::string& data_dir) {
  return OpenAndMigrate(absl::StrCat(data_dir, "/catalog.db"), Database::Synchronous::kFull,
                        kCatalogMigrations);
}

absl::StatusOr<Database> OpenMetricsDatabase(const std::string& data_dir) {
  return OpenAndMigrate(absl::StrCat(data_dir, "/metrics.db"), Database::Synchronous::kNormal,
                        kMetricsMigrations);
}

}  // namespace anneal
