#include "common/base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "absl/strings/str_cat.h"

namespace anneal {
namespace {

absl::Status ErrnoStatus(absl::string_view action, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", action, " ", path));
}

// Reads up to `limit` bytes from the file's current position.
absl::StatusOr<std::string> ReadUpTo(int fd, size_t limit, const std::string& path) {
  std::string text;
  while (text.size() < limit) {
    const size_t old_size = text.size();
    text.resize(old_size + std::min<size_t>(limit - old_size, 64u << 10));
    const ssize_t count = ::read(fd, &text[old_size], text.size() - old_size);
    text.resize(old_size + std::max<ssize_t>(count, 0));
    if (count < 0 && errno != EINTR) return ErrnoStatus("read", path);
    if (count == 0) break;
  }
  return text;
}

absl::Status WriteAll(int fd, absl::string_view content, const std::string& path) {
  while (!content.empty()) {
    const ssize_t count = ::write(fd, content.data(), content.size());
    if (count < 0 && errno != EINTR) return ErrnoStatus("write", path);
    if (count > 0) content.remove_prefix(count);
  }
  return absl::OkStatus();
}

}  // namespace

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) {
    Reset();
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

void UniqueFd::Reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus("open", path);
  absl::StatusOr<std::string> text = ReadUpTo(fd.get(), max_bytes + 1, path);
  if (text.ok() && text->size() > max_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, " is longer than ", max_bytes, " bytes"));
  }
  return text;
}

absl::StatusOr<std::string> ReadFileTail(const std::string& path, size_t max_bytes) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus("open", path);
  struct stat info;
  if (::fstat(fd.get(), &info) != 0) return ErrnoStatus("stat", path);
  const off_t start = std::max<off_t>(0, info.st_size - static_cast<off_t>(max_bytes));
  if (::lseek(fd.get(), start, SEEK_SET) < 0) return ErrnoStatus("seek in", path);
  return ReadUpTo(fd.get(), max_bytes, path);
}

absl::Status WriteFileAtomically(const std::string& path, absl::string_view content) {
  const std::string temporary = path + ".tmp";
  UniqueFd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoStatus("create", temporary);
  if (absl::Status status = WriteAll(fd.get(), content, temporary); !status.ok()) return status;
  if (::fsync(fd.get()) != 0) return ErrnoStatus("flush", temporary);
  if (::rename(temporary.c_str(), path.c_str()) != 0) return ErrnoStatus("publish", path);
  return absl::OkStatus();
}

absl::Status SyncFolder(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus("open", path);
  // Some file systems have nothing to sync in a folder and say EINVAL.
  if (::fsync(fd.get()) != 0 && errno != EINVAL) return ErrnoStatus("sync", path);
  return absl::OkStatus();
}

}  // namespace anneal
