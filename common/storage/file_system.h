#pragma once
// Files as the storage root needs them, behind an interface so that tests can make any operation
// fail.
//
// Errors carry the path and the errno's code: NOT_FOUND, ALREADY_EXISTS, RESOURCE_EXHAUSTED (disk
// full), ...

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace anneal {

// Guarded by its caller. Closed by its destructor; what was not synced may be lost with the power.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  virtual absl::Status Append(absl::string_view bytes) = 0;
  virtual absl::Status Sync() = 0;
};

// Thread-safe.
class ReadableFile {
 public:
  virtual ~ReadableFile() = default;
  // Up to `bytes` from `offset`; fewer only at the end of the file.
  virtual absl::StatusOr<std::string> ReadAt(int64_t offset, int64_t bytes) = 0;
};

struct FileInfo {
  enum class Kind { kFile, kFolder, kOther };
  Kind kind = Kind::kOther;
  int64_t size_bytes = 0;
};

// Thread-safe.
class FileSystem {
 public:
  virtual ~FileSystem() = default;

  // Opens `path`, making it if it is not there, and cuts it to its first `keep_bytes`.
  virtual absl::StatusOr<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path,
                                                                      int64_t keep_bytes) = 0;
  virtual absl::StatusOr<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) = 0;
  // Of the thing itself: a symbolic link is kOther.
  virtual absl::StatusOr<FileInfo> Stat(const std::string& path) = 0;
  // Names in a folder, sorted.
  virtual absl::StatusOr<std::vector<std::string>> List(const std::string& folder) = 0;
  // Makes the folder and those above it; durable when it returns.
  virtual absl::Status MakeFolders(const std::string& folder) = 0;
  // Atomic; replaces a file that is there. Both folders are durable when it returns.
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  // Not an error if there is nothing.
  virtual absl::Status RemoveTree(const std::string& path) = 0;
  // A new file with the bytes of `from`, durable when it returns; shares blocks where the file
  // system can.
  virtual absl::Status CopyFile(const std::string& from, const std::string& to) = 0;
  // The same with the bytes of an open file, from its beginning; its position moves.
  virtual absl::Status CopyOpenFile(int from, const std::string& to) = 0;
  // What an ordinary user may still write on the disk of `path`.
  virtual absl::StatusOr<int64_t> FreeBytes(const std::string& path) = 0;

  // The machine's. Never destroyed.
  static FileSystem& Posix();
};

// The whole of a file that has at most `max_bytes`.
absl::StatusOr<std::string> ReadSmallFile(FileSystem& files, const std::string& path,
                                          int64_t max_bytes);

}  // namespace anneal
