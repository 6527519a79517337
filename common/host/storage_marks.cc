#include "common/host/storage_marks.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/host/check.h"

namespace anneal {
namespace {

constexpr char kSeen[] = "shared storage";
constexpr char kChanges[] = "shared storage changes";
// Of one version of a file, in tokens: more than a page, so that a mixture shows, and of two
// lengths.
constexpr int kOldTokens = 256, kNewTokens = 384;
constexpr int64_t kMostBytes = 1 << 20;
constexpr absl::Duration kLookAgainAfter = absl::Milliseconds(20);
// Reports and checkpoints are looked for by others as soon as they are told of.
constexpr absl::Duration kLateSight = absl::Seconds(3);

// What each of the three is called, after the mark's own path.
constexpr char kGrowing[] = ".grows";
constexpr char kGoing[] = ".goes";

std::string Content(absl::string_view word, absl::string_view token, int times) {
  std::string content;
  for (int i = 0; i < times; ++i) absl::StrAppend(&content, word, token, "\n");
  return content;
}
std::string OldContent(absl::string_view token) { return Content("old ", token, kOldTokens); }
std::string NewContent(absl::string_view token) { return Content("new ", token, kNewTokens); }
std::string Grown(absl::string_view token) {
  return absl::StrCat(OldContent(token), NewContent(token));
}

absl::StatusOr<std::unique_ptr<WritableFile>> Write(FileSystem& files, const std::string& path,
                                                    absl::string_view content) {
  ANNEAL_ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, files.OpenForAppend(path, 0));
  ANNEAL_RETURN_IF_ERROR(file->Append(content));
  ANNEAL_RETURN_IF_ERROR(file->Sync());
  return file;
}

absl::Status Publish(FileSystem& files, const std::string& path, absl::string_view content) {
  ANNEAL_RETURN_IF_ERROR(Write(files, path + ".new", content).status());
  return files.Rename(path + ".new", path);
}

bool Holds(FileSystem& files, const std::string& path, absl::string_view content) {
  const absl::StatusOr<std::string> seen = ReadSmallFile(files, path, kMostBytes);
  return seen.ok() && *seen == content;
}

std::string Text(absl::Duration duration) {
  return absl::FormatDuration(absl::Trunc(duration, absl::Microseconds(100)));
}

// Looks at every name until `is_there` or `patience` is over.
struct Sight {
  std::set<std::string> missing;
  absl::Duration last = absl::ZeroDuration();  // when the last was there

  template <typename IsThere>
  void Look(absl::Duration now, const IsThere& is_there) {
    for (auto it = missing.begin(); it != missing.end();) {
      if (!is_there(*it)) {
        ++it;
        continue;
      }
      it = missing.erase(it);
      last = now;
    }
  }
};

struct Changes {
  Sight renamed, grown, gone;
  std::string mixture;
  bool all_seen() const {
    return renamed.missing.empty() && grown.missing.empty() && gone.missing.empty();
  }
};

Changes LookForChanges(FileSystem& files, const std::string& folder,
                       const std::vector<std::string>& names, absl::string_view token,
                       absl::Duration patience, Clock& clock) {
  const absl::Duration start = clock.MonotonicNow();
  const std::set<std::string> all(names.begin(), names.end());
  Changes changes{{all}, {all}, {all}, ""};
  const std::string renamed = NewContent(token), grown = Grown(token);
  while (true) {
    changes.mixture = FindMixture(files, folder, names, token);
    if (!changes.mixture.empty()) return changes;
    const absl::Duration now = clock.MonotonicNow() - start;
    const auto path = [&folder](const std::string& name) {
      return absl::StrCat(folder, "/", name);
    };
    changes.renamed.Look(now, [&](const auto& name) { return Holds(files, path(name), renamed); });
    changes.grown.Look(
        now, [&](const auto& name) { return Holds(files, path(name) + kGrowing, grown); });
    changes.gone.Look(now, [&](const auto& name) {
      return absl::IsNotFound(files.OpenForRead(path(name) + kGoing).status());
    });
    if (changes.all_seen() || now >= patience) return changes;
    clock.Sleep(kLookAgainAfter);
  }
}

// "new content after 20ms", or "not yet of w1, w2".
std::string Describe(absl::string_view what, const Sight& sight) {
  if (sight.missing.empty()) return absl::StrCat(what, " after ", Text(sight.last));
  return absl::StrCat(what, " not yet of ", absl::StrJoin(sight.missing, ", "));
}

}  // namespace

StorageMark::StorageMark(FileSystem& files, std::string path, absl::string_view token)
    : files_(files), path_(std::move(path)), token_(token) {}

absl::StatusOr<std::unique_ptr<StorageMark>> StorageMark::Leave(FileSystem& files,
                                                                const std::string& folder,
                                                                const std::string& name,
                                                                absl::string_view token) {
  ANNEAL_RETURN_IF_ERROR(files.MakeFolders(folder));
  std::unique_ptr<StorageMark> mark(new StorageMark(files, absl::StrCat(folder, "/", name), token));
  ANNEAL_ASSIGN_OR_RETURN(mark->growing_, Write(files, mark->path_ + kGrowing, OldContent(token)));
  ANNEAL_RETURN_IF_ERROR(Write(files, mark->path_ + kGoing, OldContent(token)).status());
  ANNEAL_RETURN_IF_ERROR(Publish(files, mark->path_, OldContent(token)));
  return mark;
}

StorageMark::~StorageMark() {
  growing_.reset();
  for (const char* suffix : {"", ".new", kGrowing, kGoing})
    files_.RemoveTree(absl::StrCat(path_, suffix)).IgnoreError();
}

absl::Status StorageMark::Change() {
  // Not synced: nobody syncs a log.
  ANNEAL_RETURN_IF_ERROR(growing_->Append(NewContent(token_)));
  ANNEAL_RETURN_IF_ERROR(files_.RemoveTree(path_ + kGoing));
  return Publish(files_, path_, NewContent(token_));
}

MarksSeen CheckMarks(FileSystem& files, const std::string& folder,
                     const std::vector<std::string>& names, absl::string_view token,
                     absl::Duration patience, Clock& clock) {
  const absl::Duration start = clock.MonotonicNow();
  Sight sight{{names.begin(), names.end()}};
  const std::string content = OldContent(token);
  while (true) {
    const absl::Duration now = clock.MonotonicNow() - start;
    sight.Look(now, [&](const std::string& name) {
      const std::string path = absl::StrCat(folder, "/", name);
      return Holds(files, path, content) && Holds(files, path + kGrowing, content) &&
             Holds(files, path + kGoing, content);
    });
    if (sight.missing.empty() || now >= patience) break;
    clock.Sleep(kLookAgainAfter);
  }
  MarksSeen seen;
  for (const std::string& name : names) {
    if (sight.missing.count(name) == 0) seen.names.push_back(name);
  }
  if (!sight.missing.empty()) {
    seen.check = FailedCheck(kSeen,
                             absl::StrCat("does not see what was written by ",
                                          absl::StrJoin(sight.missing, ", "), " in ", folder),
                             "every worker and the coordinator must have the same folder as "
                             "--storage-root: compare their mounts");
    return seen;
  }
  const std::string measured = absl::StrCat("sees the files of ", names.size(),
                                            " others, the last after ", Text(sight.last));
  seen.check = sight.last > kLateSight
                   ? WarningCheck(kSeen, measured,
                                  "caches hide new files for long: mount with a shorter attribute "
                                  "cache (NFS: actimeo)")
                   : OkCheck(kSeen, measured);
  return seen;
}

std::string FindMixture(FileSystem& files, const std::string& folder,
                        const std::vector<std::string>& names, absl::string_view token) {
  const std::string grown = Grown(token);
  for (const std::string& name : names) {
    const std::string path = absl::StrCat(folder, "/", name);
    const absl::StatusOr<std::string> renamed = ReadSmallFile(files, path, kMostBytes);
    // Others than NOT_FOUND pass: NFS may say once that a handle is stale.
    if (absl::IsNotFound(renamed.status()))
      return absl::StrCat(path, " was not there while another file was renamed over it");
    if (renamed.ok() && *renamed != OldContent(token) && *renamed != NewContent(token))
      return absl::StrCat(path, " is neither its old nor its new content after a rename over it");
    const absl::StatusOr<std::string> growing = ReadSmallFile(files, path + kGrowing, kMostBytes);
    if (growing.ok() && !absl::StartsWith(grown, *growing))
      return absl::StrCat(path, kGrowing, " holds what was never written while it grows");
  }
  return "";
}

v1::Check CheckChanges(FileSystem& files, const std::string& folder,
                       const std::vector<std::string>& names, absl::string_view token,
                       const std::string& mixture, absl::Duration patience, Clock& clock) {
  Changes changes = LookForChanges(files, folder, names, token, patience, clock);
  if (!mixture.empty()) changes.mixture = mixture;
  if (!changes.mixture.empty()) {
    return FailedCheck(kChanges, changes.mixture,
                       "the storage root needs a POSIX file system on all machines (NFSv4, Lustre, "
                       "CephFS)");
  }
  const std::string measured = absl::StrCat(
      "of ", names.size(), " others: ", Describe("renamed over", changes.renamed), ", ",
      Describe("growth", changes.grown), ", ", Describe("removal", changes.gone));
  if (!changes.renamed.missing.empty()) {
    return FailedCheck(
        kChanges,
        absl::StrCat("after ", Text(patience),
                     " still the old content of a file that was replaced; ", measured),
        "mount with a shorter attribute cache (NFS: actimeo), or without one: jobs "
        "would go on from what is outdated");
  }
  const absl::Duration latest =
      std::max({changes.renamed.last, changes.grown.last, changes.gone.last});
  if (!changes.all_seen() || latest > kLateSight) {
    return WarningCheck(kChanges, measured,
                        "caches hide changes for long, and anneal logs --follow lags behind: mount "
                        "with a shorter attribute cache (NFS: actimeo)");
  }
  return OkCheck(kChanges, measured);
}

}  // namespace anneal
