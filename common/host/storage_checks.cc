#include "common/host/storage_checks.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/base/thread.h"
#include "common/host/check.h"

namespace anneal {
namespace {

constexpr char kStorage[] = "storage";
constexpr int kRenames = 20;
// A reader that sees part of a file must not see a valid one.
constexpr size_t kFileBytes = 64 << 10;
constexpr absl::Duration kSlowSync = absl::Seconds(1);
constexpr char kAdvice[] =
    "the storage root needs a POSIX file system (NFSv4, Lustre, CephFS, a local disk): not an "
    "object store that is mounted as one";

absl::StatusOr<std::string> ReadWhole(FileSystem& files, const std::string& path) {
  return ReadSmallFile(files, path, 2 * kFileBytes);
}

absl::Status WriteSynced(FileSystem& files, const std::string& path, absl::string_view content) {
  ANNEAL_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, files.OpenForAppend(path, 0));
  ANNEAL_RETURN_IF_ERROR(file->Append(content));
  return file->Sync();
}

std::string Milliseconds(absl::Duration duration) {
  return absl::FormatDuration(absl::Trunc(duration, absl::Microseconds(100)));
}

// Reads a file over and over while it is replaced; it must always be a whole one.
class Reader {
 public:
  Reader(FileSystem& files, const std::string& path)
      : thread_("doctor-reader", [this, &files, path] {
          while (!done_ && trouble_.empty()) LookAt(ReadWhole(files, path));
        }) {}
  // What it has seen that must not be; empty if nothing.
  std::string Finish() {
    done_ = true;
    thread_.Join();
    return trouble_;
  }
  ~Reader() { Finish(); }

 private:
  void LookAt(const absl::StatusOr<std::string>& content) {
    if (!content.ok()) {
      trouble_ = absl::StrCat("a file was not there while another was renamed over it: ",
                              content.status().message());
    } else if (content->size() != kFileBytes ||
               content->find_first_not_of(content->front()) != std::string::npos) {
      trouble_ = "part of a file was seen while another was renamed over it";
    }
  }

  std::atomic<bool> done_ = false;
  std::string trouble_;  // of the thread, until it is joined
  Thread thread_;        // last: runs on the members above
};

// The times that syncs took.
absl::StatusOr<std::vector<absl::Duration>> RenameOver(FileSystem& files, const std::string& target,
                                                       Clock& clock) {
  std::vector<absl::Duration> syncs;
  const std::string source = absl::StrCat(target, ".new");
  for (int i = 0; i < kRenames; ++i) {
    const std::string content(kFileBytes, static_cast<char>('b' + i));
    const absl::Duration start = clock.MonotonicNow();
    ANNEAL_RETURN_IF_ERROR(WriteSynced(files, source, content));
    syncs.push_back(clock.MonotonicNow() - start);
    ANNEAL_RETURN_IF_ERROR(files.Rename(source, target));
    ANNEAL_ASSIGN_OR_RETURN(const std::string seen, ReadWhole(files, target));
    if (seen != content) {
      return absl::DataLossError(
          absl::StrCat(target, " does not hold what was renamed to it just before"));
    }
  }
  std::sort(syncs.begin(), syncs.end());
  return syncs;
}

// As RenameOver; `trouble` is what the reader has seen meanwhile.
absl::StatusOr<std::vector<absl::Duration>> RenameWhileReading(FileSystem& files,
                                                               const std::string& folder,
                                                               Clock& clock, std::string* trouble) {
  const std::string target = absl::StrCat(folder, "/file");
  ANNEAL_RETURN_IF_ERROR(files.MakeFolders(folder));
  ANNEAL_RETURN_IF_ERROR(WriteSynced(files, target, std::string(kFileBytes, 'a')));
  Reader reader(files, target);
  absl::StatusOr<std::vector<absl::Duration>> syncs = RenameOver(files, target, clock);
  *trouble = reader.Finish();
  return syncs;
}

}  // namespace

v1::Check CheckStorage(FileSystem& files, const std::string& folder, Clock& clock) {
  std::string trouble;
  const absl::StatusOr<std::vector<absl::Duration>> syncs =
      RenameWhileReading(files, folder, clock, &trouble);
  files.RemoveTree(folder).IgnoreError();
  // The cause before what it led to.
  if (!trouble.empty()) return FailedCheck(kStorage, trouble, kAdvice);
  if (!syncs.ok()) return FailedCheck(kStorage, syncs.status().message(), kAdvice);
  const absl::Duration median = (*syncs)[syncs->size() / 2];
  const std::string measured =
      absl::StrCat("renames are atomic; writing and syncing 64 KiB takes ", Milliseconds(median),
                   ", at most ", Milliseconds(syncs->back()));
  if (median > kSlowSync) {
    return WarningCheck(kStorage, measured,
                        "checkpoints will take long: look at the load of the storage");
  }
  return OkCheck(kStorage, measured);
}

}  // namespace anneal
