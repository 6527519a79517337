#include "common/base/regular_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"
#include "common/base/status.h"

namespace anneal {
namespace {

constexpr size_t kPieceBytes = 1 << 20;

// Up to `bytes`; 0 at the end.
absl::StatusOr<size_t> ReadSome(int fd, void* to, size_t bytes, const std::string& path) {
  while (true) {
    const ssize_t count = ::read(fd, to, bytes);
    if (count >= 0) return static_cast<size_t>(count);
    if (errno != EINTR) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
  }
}

}  // namespace

absl::Status CheckRegularFile(int fd, const std::string& path) {
  struct stat info;
  if (::fstat(fd, &info) != 0)
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot stat ", path));
  if (S_ISREG(info.st_mode)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
}

absl::StatusOr<UniqueFd> OpenRegularFile(const std::string& path) {
  // Without O_NONBLOCK opening a pipe waits for its writer. Regular files know no difference.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!fd.valid()) {
    // What a socket, or a device without its driver, says.
    if (errno == ENXIO || errno == ENODEV)
      return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  }
  ANNEAL_RETURN_IF_ERROR(CheckRegularFile(fd.get(), path));
  return fd;
}

absl::StatusOr<std::string> ReadOpenFile(int fd, const std::string& path, size_t max_bytes) {
  std::string text;
  while (text.size() <= max_bytes) {
    const size_t old_size = text.size();
    text.resize(old_size + std::min(max_bytes + 1 - old_size, kPieceBytes));
    ANNEAL_ASSIGN_OR_RETURN(const size_t count,
                            ReadSome(fd, &text[old_size], text.size() - old_size, path));
    text.resize(old_size + count);
    if (count == 0) return text;
  }
  return absl::ResourceExhaustedError(absl::StrCat(path, " is longer than ", max_bytes, " bytes"));
}

absl::StatusOr<std::string> Sha256OfOpenFile(int fd, const std::string& path) {
  Sha256 hash;
  std::vector<char> buffer(kPieceBytes);
  while (true) {
    ANNEAL_ASSIGN_OR_RETURN(const size_t count, ReadSome(fd, buffer.data(), buffer.size(), path));
    if (count == 0) return hash.HexDigest();
    hash.Update(buffer.data(), count);
  }
}

}  // namespace anneal
