#pragma once
// Passes everything on to another file system: a base for those that behave badly in one respect.

#include <memory>
#include <string>
#include <vector>

#include "common/storage/file_system.h"

namespace anneal::testing {

class WrappedFileSystem : public FileSystem {
 public:
  explicit WrappedFileSystem(FileSystem& base) : base_(base) {}

  absl::StatusOr<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path,
                                                              int64_t keep_bytes) override {
    return base_.OpenForAppend(path, keep_bytes);
  }
  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) override {
    return base_.OpenForRead(path);
  }
  absl::StatusOr<FileInfo> Stat(const std::string& path) override { return base_.Stat(path); }
  absl::StatusOr<std::vector<std::string>> List(const std::string& folder) override {
    return base_.List(folder);
  }
  absl::Status MakeFolders(const std::string& folder) override { return base_.MakeFolders(folder); }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    return base_.Rename(from, to);
  }
  absl::Status RemoveTree(const std::string& path) override { return base_.RemoveTree(path); }
  absl::Status CopyFile(const std::string& from, const std::string& to) override {
    return base_.CopyFile(from, to);
  }
  absl::Status CopyOpenFile(int from, const std::string& to) override {
    return base_.CopyOpenFile(from, to);
  }
  absl::StatusOr<int64_t> FreeBytes(const std::string& path) override {
    return base_.FreeBytes(path);
  }

 protected:
  FileSystem& base() { return base_; }

 private:
  FileSystem& base_;
};

}  // namespace anneal::testing
