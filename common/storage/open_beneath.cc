#include "common/storage/open_beneath.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"

namespace anneal {
namespace {

// Between the root and the rest of a rooted path.
constexpr char kMark[] = "/./";

// Without O_NONBLOCK opening a pipe waits for its writer.
constexpr int kReadFlags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | O_NOFOLLOW;

absl::Status NotBeneath(const std::string& root, const std::string& path) {
  return WithReason(absl::PermissionDeniedError(
                        absl::StrCat("cannot open ", path, ": it is not a path below ", root)),
                    "NOT_ALLOWED");
}

absl::Status OpenError(const std::string& path, int error) {
  if (error == ELOOP) {
    return WithReason(absl::PermissionDeniedError(absl::StrCat(
                          "cannot open ", path,
                          ": a symbolic link stands on this path that was not there when the path "
                          "was checked; put the file there itself, or name where it is")),
                      "NOT_ALLOWED");
  }
  // What a socket, or a device without its driver, says.
  if (error == ENXIO || error == ENODEV)
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  return absl::ErrnoToStatus(error, absl::StrCat("cannot open ", path));
}

// The names below `root` that lead to `path`.
absl::StatusOr<std::vector<std::string>> NamesBeneath(const std::string& root,
                                                      const std::string& path) {
  absl::string_view rest = path;
  if (!absl::ConsumePrefix(&rest, absl::StripSuffix(root, "/")) || !absl::ConsumePrefix(&rest, "/"))
    return NotBeneath(root, path);
  std::vector<std::string> names = absl::StrSplit(rest, '/', absl::SkipEmpty());
  for (const std::string& name : names) {
    if (name == "." || name == "..") return NotBeneath(root, path);
  }
  if (names.empty() || path.find('\0') != std::string::npos) return NotBeneath(root, path);
  return names;
}

// "/." so that a mount point that is mounted on demand is.
absl::StatusOr<UniqueFd> OpenRoot(const std::string& root) {
  UniqueFd folder(::open(absl::StrCat(root, "/.").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", root));
  return folder;
}

absl::StatusOr<UniqueFd> Checked(int fd, const std::string& path) {
  UniqueFd file(fd);
  if (!file.valid()) return OpenError(path, errno);
  ANNEAL_RETURN_IF_ERROR(CheckRegularFile(file.get(), path));
  return file;
}

}  // namespace

absl::StatusOr<UniqueFd> OpenBeneath(const std::string& root, const std::string& path) {
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<std::string> names, NamesBeneath(root, path));
  ANNEAL_ASSIGN_OR_RETURN(const UniqueFd folder, OpenRoot(root));
  struct open_how how = {};
  how.flags = kReadFlags;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  const std::string below = absl::StrJoin(names, "/");
  const int fd =
      static_cast<int>(::syscall(SYS_openat2, folder.get(), below.c_str(), &how, sizeof how));
  // EPERM is what the filters of older container runtimes say of calls they do not know.
  if (fd < 0 && (errno == ENOSYS || errno == EPERM)) return OpenBeneathStepwise(root, path);
  return Checked(fd, path);
}

std::string RootedPath(const std::string& root, const std::string& path) {
  absl::string_view below = path;
  absl::ConsumePrefix(&below, absl::StripSuffix(root, "/"));
  return absl::StrCat(absl::StripSuffix(root, "/"), kMark, absl::StripPrefix(below, "/"));
}

std::string PlainPath(const std::string& path) {
  const size_t mark = path.find(kMark);
  if (mark == std::string::npos) return path;
  return absl::StrCat(path.substr(0, mark), "/", path.substr(mark + sizeof kMark - 1));
}

absl::StatusOr<UniqueFd> OpenRooted(const std::string& path) {
  const size_t mark = path.find(kMark);
  if (mark == std::string::npos) return OpenRegularFile(path);
  return OpenBeneath(path.substr(0, std::max<size_t>(mark, 1)), PlainPath(path));
}

absl::StatusOr<UniqueFd> OpenBeneathStepwise(const std::string& root, const std::string& path) {
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<std::string> names, NamesBeneath(root, path));
  ANNEAL_ASSIGN_OR_RETURN(UniqueFd folder, OpenRoot(root));
  for (size_t i = 0; i + 1 < names.size(); ++i) {
    // With O_PATH a link is opened itself, and then is no folder.
    UniqueFd next(::openat(folder.get(), names[i].c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!next.valid()) return OpenError(path, errno);
    struct stat info = {};
    if (::fstat(next.get(), &info) != 0) return OpenError(path, errno);
    if (S_ISLNK(info.st_mode)) return OpenError(path, ELOOP);
    if (!S_ISDIR(info.st_mode)) return OpenError(path, ENOTDIR);
    folder = std::move(next);
  }
  return Checked(::openat(folder.get(), names.back().c_str(), kReadFlags), path);
}

}  // namespace anneal
