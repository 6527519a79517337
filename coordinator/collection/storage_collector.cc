#include "coordinator/collection/storage_collector.h"

#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "coordinator/collection/references.h"

namespace anneal {
namespace {

// Appends folder/name for each thing in the folder; nothing if it cannot be read.
void Append(const StorageRoot& root, const std::string& folder, std::vector<std::string>* paths) {
  absl::StatusOr<std::vector<std::string>> names = root.files().List(root.Absolute(folder));
  if (!names.ok()) return;
  for (const std::string& name : *names) paths->push_back(absl::StrCat(folder, "/", name));
}

// The same one level deeper.
void AppendBelow(const StorageRoot& root, const std::string& folder,
                 std::vector<std::string>* paths) {
  std::vector<std::string> folders;
  Append(root, folder, &folders);
  for (const std::string& below : folders) Append(root, below, paths);
}

void Count(const StorageRoot& root, const std::string& path, v1::Storage::Kind* kind) {
  const absl::StatusOr<FileInfo> info = root.files().Stat(root.Absolute(path));
  // Gone meanwhile, most likely.
  if (!info.ok()) return;
  if (info->kind != FileInfo::Kind::kFolder) {
    kind->set_files(kind->files() + 1);
    kind->set_size_bytes(kind->size_bytes() + info->size_bytes);
    return;
  }
  std::vector<std::string> below;
  Append(root, path, &below);
  for (const std::string& entry : below) Count(root, entry, kind);
}

}  // namespace

StorageCollector::StorageCollector(StorageRoot& root, const Catalog& catalog,
                                   ResourceStore& resources, Clock& clock, Options options)
    : root_(root),
      catalog_(catalog),
      resources_(resources),
      clock_(clock),
      options_(std::move(options)) {}

StorageCollector::~StorageCollector() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  thread_.Join();
}

void StorageCollector::Start() {
  thread_ = Thread("collector", [this] { Run(); });
}

void StorageCollector::Run() {
  while (true) {
    {
      absl::MutexLock lock(&mu_);
      if (clock_.AwaitWithTimeout(&mu_, absl::Condition(&stopping_), options_.every)) return;
    }
    const absl::StatusOr<std::vector<std::string>> collected = Collect();
    if (!collected.ok()) {
      ANNEAL_LOG(WARNING) << "storage not collected" << Field("why", collected.status().message());
    } else if (!collected->empty()) {
      ANNEAL_LOG(INFO) << "storage collected" << Field("moved_to_trash", collected->size());
    }
  }
}

std::vector<std::string> StorageCollector::ListAll() const {
  std::vector<std::string> paths, jobs;
  AppendBelow(root_, "blobs/sha256", &paths);
  Append(root_, "blobs/prepared", &paths);
  Append(root_, "blobs/prepared-cache", &paths);
  AppendBelow(root_, "models", &paths);
  Append(root_, "outputs", &paths);
  Append(root_, "jobs", &jobs);
  for (const std::string& job : jobs) {
    // First, so that what is in a folder goes before the folder.
    Append(root_, absl::StrCat(job, "/checkpoints"), &paths);
    Append(root_, absl::StrCat(job, "/checkpoints/tmp"), &paths);
    paths.push_back(job);
  }
  AppendBelow(root_, "tmp", &paths);
  return paths;
}

absl::Duration StorageCollector::GraceFor(absl::string_view path) const {
  if (absl::StartsWith(path, "tmp/")) return options_.temporary_grace;
  if (absl::StartsWith(path, "blobs/prepared-cache/")) return options_.cache_grace;
  return options_.grace;
}

absl::StatusOr<std::vector<std::string>> StorageCollector::Collect() {
  absl::MutexLock lock(&mu_);
  const std::vector<std::string> paths = ListAll();
  std::vector<std::string> collected;
  // Somebody is publishing: rather the next time than to make them wait.
  if (!root_.publishing().TryLock()) return collected;
  const absl::Time now = clock_.TimeNow();
  const std::shared_ptr<const JobTable> jobs = catalog_.jobs();
  absl::StatusOr<std::set<std::string>> resources = resources_.ReferencedPaths();
  absl::Status status = resources.status();
  std::map<std::string, absl::Time> unwanted;
  if (status.ok()) {
    const References references(*jobs, *std::move(resources), now);
    for (const std::string& path : paths) {
      if (references.Holds(path)) continue;
      const auto known = unwanted_.find(path);
      const absl::Time since = known == unwanted_.end() ? now : known->second;
      if (now - since < GraceFor(path)) {
        unwanted[path] = since;
        continue;
      }
      status = root_.MoveToTrash(path);
      if (!status.ok()) break;
      collected.push_back(path);
    }
  }
  root_.publishing().Unlock();
  ANNEAL_RETURN_IF_ERROR(status);
  unwanted_ = std::move(unwanted);
  ANNEAL_RETURN_IF_ERROR(root_.DeleteOldTrash());
  return collected;
}

absl::StatusOr<v1::Storage> StorageCollector::Measure() const {
  v1::Storage storage;
  const auto add = [&](const char* name, const std::vector<std::string>& paths) {
    v1::Storage::Kind& kind = *storage.add_kinds();
    kind.set_name(name);
    for (const std::string& path : paths) Count(root_, path, &kind);
  };
  std::vector<std::string> jobs, checkpoints, logs;
  Append(root_, "jobs", &jobs);
  for (const std::string& job : jobs) {
    checkpoints.push_back(absl::StrCat(job, "/checkpoints"));
    logs.push_back(absl::StrCat(job, "/logs"));
  }
  add("uploads", {"blobs/sha256"});
  add("prepared data", {"blobs/prepared", "blobs/prepared-cache"});
  add("models", {"models"});
  add("checkpoints", checkpoints);
  add("logs", logs);
  add("outputs", {"outputs"});
  add("being written", {"tmp"});
  add("trash", {"trash"});
  ANNEAL_ASSIGN_OR_RETURN(const int64_t free, root_.files().FreeBytes(root_.path()));
  storage.set_free_bytes(free);
  return storage;
}

}  // namespace anneal
