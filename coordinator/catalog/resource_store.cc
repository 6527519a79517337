#include "coordinator/catalog/resource_store.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/storage/layout.h"
#include "coordinator/catalog/records.h"
#include "coordinator/catalog/schema.h"
#include "coordinator/lifecycle/proto_time.h"

namespace anneal {
namespace {

// Unfinished uploads stop counting this much late.
constexpr absl::Duration kCountAge = absl::Seconds(10);
// So many models are remembered: less than a kilobyte each.
constexpr size_t kMostModels = 256;

}  // namespace

absl::StatusOr<std::unique_ptr<ResourceStore>> ResourceStore::Open(const std::string& data_dir) {
  ANNEAL_ASSIGN_OR_RETURN(Database database, OpenCatalogDatabase(data_dir));
  return std::unique_ptr<ResourceStore>(new ResourceStore(std::move(database)));
}

absl::Status ResourceStore::CheckUnused(absl::string_view project, absl::string_view resource) {
  ANNEAL_ASSIGN_OR_RETURN(
      Statement statement,
      database_.Prepare("SELECT job FROM job_resources JOIN jobs ON jobs.id = job "
                        "WHERE resource = ? AND project = ? LIMIT 1"));
  ANNEAL_ASSIGN_OR_RETURN(const bool used, statement.Bind(resource).Bind(project).Step());
  if (!used) return absl::OkStatus();
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(resource, " is used by jobs/", statement.Text(0),
                                                 ": cancel the job or wait for its end")),
      "IN_USE");
}

absl::Status ResourceStore::PutFile(const internal::FileRecord& file) {
  absl::MutexLock lock(&mu_);
  ANNEAL_ASSIGN_OR_RETURN(Statement statement,
                          database_.Prepare("INSERT INTO files VALUES (?, ?, ?, ?, ?)"));
  return statement.Bind(file.id())
      .Bind(file.project())
      .Bind(file.sha256())
      .Bind(file.display_name())
      .BindBlob(file.SerializeAsString())
      .Run();
}

absl::StatusOr<internal::FileRecord> ResourceStore::GetFile(absl::string_view project,
                                                            absl::string_view id) {
  absl::MutexLock lock(&mu_);
  ANNEAL_ASSIGN_OR_RETURN(
      Statement statement,
      database_.Prepare("SELECT record FROM files WHERE id = ? AND project = ?"));
  return OnlyRecord<internal::FileRecord>(statement.Bind(id).Bind(project),
                                          absl::StrCat("files/", id));
}

absl::StatusOr<std::vector<internal::FileRecord>> ResourceStore::ListFiles(
    absl::string_view project, absl::string_view before_id, int limit, absl::string_view sha256) {
  absl::MutexLock lock(&mu_);
  ANNEAL_ASSIGN_OR_RETURN(
      Statement statement,
      database_.Prepare("SELECT record FROM files WHERE project = ?1 AND (?2 = '' OR id < ?2) "
                        "AND (?3 = '' OR sha256 = ?3) ORDER BY id DESC LIMIT ?4"));
  return AllRecords<internal::FileRecord>(
      statement.Bind(project).Bind(before_id).Bind(sha256).Bind(static_cast<int64_t>(limit)));
}

absl::StatusOr<std::optional<internal::FileRecord>> ResourceStore::FindFile(
    absl::string_view project, absl::string_view sha256, absl::string_view display_name) {
  absl::MutexLock lock(&mu_);
  ANNEAL_ASSIGN_OR_RETURN(
      Statement statement,
      database_.Prepare("SELECT record FROM files WHERE project = ? AND sha256 = ? "
                        "AND display_name = ? ORDER BY id DESC LIMIT 1"));
  ANNEAL_ASSIGN_OR_RETURN(const bool found,
                          statement.Bind(project).Bind(sha256).Bind(display_name).Step());
  if (!found) return std::optional<internal::FileRecord>();
  ANNEAL_ASSIGN_OR_RETURN(internal::FileRecord file, RecordAt<internal::FileRecord>(statement, 0));
  return std::optional<internal::FileRecord>(std::move(file));
}

absl::Status ResourceStore::DeleteFile(absl::string_view project, absl::string_view id) {
  absl::MutexLock lock(&mu_);
  ANNEAL_ASSIGN_OR_RETURN(Transaction transaction, Transaction::Begin(database_));
  const std::string name = absl::StrCat("files/", id);
  ANNEAL_ASSIGN_OR_RETURN(Statement statement,
                          database_.Prepare("DELETE FROM files WHERE id = ? AND project = ?"));
  ANNEAL_RETURN_IF_ERROR(statement.Bind(id).Bind(project).Run());
  if (database_.changes() == 0)
    return WithReason(absl::NotFoundError(absl::StrCat("no ", name)), "NOT_FOUND");
  ANNEAL_RETURN_IF_ERROR(CheckUnused(project, name));
  return transaction.Commit();
}

absl::Status ResourceStore::PutModel(const internal::ModelRecord& model) {
  absl::MutexLock lock(&mu_);
  models_.clear();
  ANNEAL_ASSIGN_OR_RETURN(Statement statement,
                          database_.Prepare("INSERT INTO models VALUES (?, ?, ?)"));
  return statement.Bind(model.project()).Bind(model.id()).BindBlob(model.SerializeAsString()).Run();
}

absl::StatusOr<std::shared_ptr<const internal::ModelRecord>> ResourceStore::GetModel(
    absl::string_view project, absl::string_view id) {
  std::pair key{std::string(project), std::string(id)};
  absl::MutexLock lock(&mu_);
  if (const auto known = models_.find(key); known != models_.end()) return known->second;
  ANNEAL_ASSIGN_OR_RETURN(
      Statement statement,
      database_.Prepare("SELECT record FROM models WHERE project = ? AND id = ?"));
  ANNEAL_ASSIGN_OR_RETURN(internal::ModelRecord record,
                          OnlyRecord<internal::ModelRecord>(statement.Bind(project).Bind(id),
                                                            absl::StrCat("models/", id)));
  if (models_.size() >= kMostModels) models_.clear();
  auto found = std::make_shared<const internal::ModelRecord>(std::move(record));
  models_[std::move(key)] = found;
  return found;
}

absl::StatusOr<std::vector<internal::ModelRecord>> ResourceStore::ListModels(
    absl::string_view project, absl::string_view after_id, int limit) {
  absl::MutexLock lock(&mu_);
  ANNEAL_ASSIGN_OR_RETURN(
      Statement statement,
      database_.Prepare(
          "SELECT record FROM models WHERE project = ? AND id > ? ORDER BY id LIMIT ?"));
  return AllRecords<internal::ModelRecord>(
      statement.Bind(project).Bind(after_id).Bind(static_cast<int64_t>(limit)));
}

absl::Status ResourceStore::DeleteModel(absl::string_view project, absl::string_view id) {
  absl::MutexLock lock(&mu_);
  models_.clear();
  ANNEAL_ASSIGN_OR_RETURN(Transaction transaction, Transaction::Begin(database_));
  const std::string name = absl::StrCat("models/", id);
  ANNEAL_ASSIGN_OR_RETURN(Statement statement,
                          database_.Prepare("DELETE FROM models WHERE project = ? AND id = ?"));
  ANNEAL_RETURN_IF_ERROR(statement.Bind(project).Bind(id).Run());
  if (database_.changes() == 0)
    return WithReason(absl::NotFoundError(absl::StrCat("no ", name)), "NOT_FOUND");
  ANNEAL_RETURN_IF_ERROR(CheckUnused(project, name));
  return transaction.Commit();
}

absl::StatusOr<ResourceStore::StoredBytes> ResourceStore::CountBytes(absl::string_view project,
                                                                     absl::Time since) {
  absl::MutexLock lock(&mu_);
  const auto known = counts_.find(project);
  if (known != counts_.end() && known->second.changes == database_.total_changes() &&
      since >= known->second.since && since < known->second.since + kCountAge) {
    return known->second.bytes;
  }
  StoredBytes bytes;
  ANNEAL_ASSIGN_OR_RETURN(Statement files,
                          database_.Prepare("SELECT record FROM files WHERE project = ?"));
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<internal::FileRecord> file_records,
                          AllRecords<internal::FileRecord>(files.Bind(project)));
  for (const internal::FileRecord& file : file_records) bytes.files += file.size_bytes();
  ANNEAL_ASSIGN_OR_RETURN(Statement uploads,
                          database_.Prepare("SELECT record FROM uploads WHERE project = ?"));
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<internal::UploadRecord> upload_records,
                          AllRecords<internal::UploadRecord>(uploads.Bind(project)));
  for (const internal::UploadRecord& upload : upload_records) {
    if (upload.file_id().empty() && TimeOf(upload.create_time()) > since)
      bytes.files += upload.size_bytes();
  }
  ANNEAL_ASSIGN_OR_RETURN(Statement models,
                          database_.Prepare("SELECT record FROM models WHERE project = ?"));
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<internal::ModelRecord> model_records,
                          AllRecords<internal::ModelRecord>(models.Bind(project)));
  for (const internal::ModelRecord& model : model_records) bytes.models += model.size_bytes();
  counts_[std::string(project)] = {bytes, since, database_.total_changes()};
  return bytes;
}

absl::StatusOr<std::set<std::string>> ResourceStore::ReferencedPaths() {
  absl::MutexLock lock(&mu_);
  std::set<std::string> paths;
  ANNEAL_ASSIGN_OR_RETURN(Statement files, database_.Prepare("SELECT DISTINCT sha256 FROM files"));
  while (true) {
    ANNEAL_ASSIGN_OR_RETURN(const bool found, files.Step());
    if (!found) break;
    paths.insert(BlobPath(files.Bytes(0)));
  }
  ANNEAL_ASSIGN_OR_RETURN(Statement models, database_.Prepare("SELECT project, id FROM models"));
  while (true) {
    ANNEAL_ASSIGN_OR_RETURN(const bool found, models.Step());
    if (!found) return paths;
    paths.insert(ModelPath(models.Bytes(0), models.Bytes(1)));
  }
}

absl::Status ResourceStore::PutUpload(const internal::UploadRecord& upload) {
  absl::MutexLock lock(&mu_);
  ANNEAL_ASSIGN_OR_RETURN(Statement statement,
                          database_.Prepare("INSERT OR REPLACE INTO uploads VALUES (?, ?, ?)"));
  return statement.Bind(upload.project())
      .Bind(upload.upload_id())
      .BindBlob(upload.SerializeAsString())
      .Run();
}

absl::StatusOr<internal::UploadRecord> ResourceStore::GetUpload(absl::string_view project,
                                                                absl::string_view upload_id) {
  absl::MutexLock lock(&mu_);
  ANNEAL_ASSIGN_OR_RETURN(
      Statement statement,
      database_.Prepare("SELECT record FROM uploads WHERE project = ? AND upload_id = ?"));
  return OnlyRecord<internal::UploadRecord>(statement.Bind(project).Bind(upload_id),
                                            absl::StrCat("upload ", upload_id));
}

absl::Status ResourceStore::DeleteUpload(absl::string_view project, absl::string_view upload_id) {
  absl::MutexLock lock(&mu_);
  ANNEAL_ASSIGN_OR_RETURN(
      Statement statement,
      database_.Prepare("DELETE FROM uploads WHERE project = ? AND upload_id = ?"));
  ANNEAL_RETURN_IF_ERROR(statement.Bind(project).Bind(upload_id).Run());
  if (database_.changes() == 0)
    return WithReason(absl::NotFoundError(absl::StrCat("no upload ", upload_id)), "NOT_FOUND");
  return absl::OkStatus();
}

}  // namespace anneal
