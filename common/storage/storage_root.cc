#include "common/storage/storage_root.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "common/storage/layout.h"

namespace anneal {
namespace {

constexpr absl::string_view kFormatFile = "FORMAT";
constexpr absl::string_view kFormatPrefix = "anneal-storage ";
constexpr int kFormatVersion = 1;
constexpr int64_t kMaxFormatBytes = 64;
constexpr absl::string_view kDayFormat = "%Y-%m-%d";
constexpr absl::Duration kTrashTime = absl::Hours(24);

std::string ParentOf(absl::string_view path) {
  return std::string(path.substr(0, path.rfind('/')));
}

}  // namespace

absl::StatusOr<std::unique_ptr<StorageRoot>> StorageRoot::Open(const std::string& path,
                                                               FileSystem& files, Clock& clock,
                                                               Random& random) {
  if (path.empty() || path[0] != '/') {
    return absl::InvalidArgumentError(
        absl::StrCat("the storage root '", path, "' must be an absolute path"));
  }
  ANNEAL_RETURN_IF_ERROR(files.MakeFolders(path));
  std::unique_ptr<StorageRoot> root(new StorageRoot(path, files, clock, random));
  ANNEAL_RETURN_IF_ERROR(root->CheckOrWriteFormat());
  return root;
}

absl::Status StorageRoot::CheckOrWriteFormat() {
  absl::StatusOr<std::string> text = ReadSmallFile(files_, Absolute(kFormatFile), kMaxFormatBytes);
  if (absl::IsNotFound(text.status())) {
    ANNEAL_ASSIGN_OR_RETURN(const std::vector<std::string> names, files_.List(path_));
    for (const std::string& name : names) {
      // What another program may be writing at this moment, when several start at once.
      if (name == "tmp") continue;
      return absl::FailedPreconditionError(
          absl::StrCat(path_, " holds '", name,
                       "' but no FORMAT file: it is not a storage root; give an empty folder"));
    }
    ANNEAL_ASSIGN_OR_RETURN(const std::string temporary, NewTemporary("format"));
    ANNEAL_ASSIGN_OR_RETURN(auto file, files_.OpenForAppend(temporary, 0));
    ANNEAL_RETURN_IF_ERROR(file->Append(absl::StrCat(kFormatPrefix, kFormatVersion, "\n")));
    ANNEAL_RETURN_IF_ERROR(file->Sync());
    return Publish(temporary, kFormatFile);
  }
  ANNEAL_RETURN_IF_ERROR(text.status());
  absl::string_view rest = *text;
  int version = 0;
  if (!absl::ConsumePrefix(&rest, kFormatPrefix) || !absl::SimpleAtoi(rest, &version) ||
      version < 1) {
    return absl::FailedPreconditionError(
        absl::StrCat(Absolute(kFormatFile), " is not 'anneal-storage N'"));
  }
  if (version > kFormatVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the storage root ", path_, " has format ",
                                                      version, ", this program knows up to ",
                                                      kFormatVersion, ": use a newer anneal"));
  }
  return absl::OkStatus();
}

std::string StorageRoot::Absolute(absl::string_view relative) const {
  return absl::StrCat(path_, "/", relative);
}

absl::StatusOr<std::string> StorageRoot::NewTemporary(absl::string_view writer) {
  const std::string folder = Absolute(absl::StrCat("tmp/", writer));
  ANNEAL_RETURN_IF_ERROR(files_.MakeFolders(folder));
  return absl::StrCat(folder, "/", NewUlid(clock_.TimeNow(), random_));
}

absl::Status StorageRoot::Publish(const std::string& temporary, absl::string_view relative) {
  const std::string target = Absolute(relative);
  ANNEAL_RETURN_IF_ERROR(files_.MakeFolders(ParentOf(target)));
  return files_.Rename(temporary, target);
}

absl::Status StorageRoot::MoveToTrash(absl::string_view relative) {
  const std::string from = Absolute(relative);
  if (absl::IsNotFound(files_.Stat(from).status())) return absl::OkStatus();
  const std::string day = absl::FormatTime(kDayFormat, clock_.TimeNow(), absl::UTCTimeZone());
  const std::string folder = Absolute(absl::StrCat("trash/", day));
  ANNEAL_RETURN_IF_ERROR(files_.MakeFolders(folder));
  return files_.Rename(from, absl::StrCat(folder, "/", NewUlid(clock_.TimeNow(), random_)));
}

absl::Status StorageRoot::DeleteOldTrash() {
  const std::string trash = Absolute("trash");
  absl::StatusOr<std::vector<std::string>> days = files_.List(trash);
  if (absl::IsNotFound(days.status())) return absl::OkStatus();
  ANNEAL_RETURN_IF_ERROR(days.status());
  for (const std::string& name : *days) {
    absl::Time day;
    if (!absl::ParseTime(kDayFormat, name, &day, nullptr)) continue;
    // Things of a day may have come in at its very end.
    if (clock_.TimeNow() < day + absl::Hours(24) + kTrashTime) continue;
    ANNEAL_RETURN_IF_ERROR(files_.RemoveTree(absl::StrCat(trash, "/", name)));
  }
  return absl::OkStatus();
}

}  // namespace anneal
