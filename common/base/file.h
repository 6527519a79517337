#pragma once
// Small files and file descriptors of POSIX, for programs' own state. Artifacts of jobs go through
// common/storage.

#include <cstddef>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace anneal {

// Owns a file descriptor and closes it. Guarded by its owner.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  ~UniqueFd() { Reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  void Reset();
  // The caller closes it.
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

// The whole file. NOT_FOUND or the errno's code with the path; RESOURCE_EXHAUSTED if it is longer
// than `max_bytes`.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes = 16u << 20);

// The last `max_bytes` of a file that may be growing, or all of it.
absl::StatusOr<std::string> ReadFileTail(const std::string& path, size_t max_bytes);

// Replaces the file's content: a reader sees the old or the new text, also after a power failure.
// Writes `path`.tmp first, so one file has one writer at a time.
absl::Status WriteFileAtomically(const std::string& path, absl::string_view content);

// Makes names created, renamed and removed in the folder survive a power failure.
absl::Status SyncFolder(const std::string& path);

}  // namespace anneal
