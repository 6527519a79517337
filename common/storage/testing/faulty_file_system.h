#pragma once
// A file system that dies at a chosen operation, for tests of what a crash leaves behind, or whose
// disk misbehaves while its process lives on.

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/storage/file_system.h"

namespace anneal::testing {

enum class DiskFault {
  kNone,
  kFull,       // an append writes half of its bytes and fails with RESOURCE_EXHAUSTED
  kSyncFails,  // a sync fails as after an I/O error
};

// Passes everything on to `base` until the given number of changing operations is used up; from
// then on every call fails with UNAVAILABLE, as if the process were gone. An append that fails
// first writes half of its bytes. Thread-safe.
class FaultyFileSystem : public FileSystem {
 public:
  explicit FaultyFileSystem(FileSystem& base) : base_(base) {}

  void FailAfter(int operations) { left_ = operations; }
  bool failed() const { return left_ < 0; }
  // From now on, until it is set to something else.
  void SetFault(DiskFault fault) { fault_ = fault; }

  absl::StatusOr<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path,
                                                              int64_t keep_bytes) override {
    if (!Use()) return Dead();
    auto file = base_.OpenForAppend(path, keep_bytes);
    if (!file.ok()) return file.status();
    return std::make_unique<File>(*this, std::move(*file));
  }
  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) override {
    if (failed()) return Dead();
    return base_.OpenForRead(path);
  }
  absl::StatusOr<FileInfo> Stat(const std::string& path) override {
    if (failed()) return Dead();
    return base_.Stat(path);
  }
  absl::StatusOr<std::vector<std::string>> List(const std::string& folder) override {
    if (failed()) return Dead();
    return base_.List(folder);
  }
  absl::Status MakeFolders(const std::string& folder) override {
    return Use() ? base_.MakeFolders(folder) : Dead();
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    return Use() ? base_.Rename(from, to) : Dead();
  }
  absl::Status RemoveTree(const std::string& path) override {
    return Use() ? base_.RemoveTree(path) : Dead();
  }
  absl::Status CopyFile(const std::string& from, const std::string& to) override {
    return Use() ? base_.CopyFile(from, to) : Dead();
  }
  absl::Status CopyOpenFile(int from, const std::string& to) override {
    return Use() ? base_.CopyOpenFile(from, to) : Dead();
  }
  absl::StatusOr<int64_t> FreeBytes(const std::string& path) override {
    if (failed()) return Dead();
    const int64_t pretended = free_bytes_;
    if (pretended >= 0) return pretended;
    return base_.FreeBytes(path);
  }
  // What FreeBytes says from now on.
  void SetFreeBytes(int64_t bytes) { free_bytes_ = bytes; }

 private:
  class File : public WritableFile {
   public:
    File(FaultyFileSystem& owner, std::unique_ptr<WritableFile> base)
        : owner_(owner), base_(std::move(base)) {}
    absl::Status Append(absl::string_view bytes) override {
      if (owner_.fault_ == DiskFault::kFull) {
        base_->Append(bytes.substr(0, bytes.size() / 2)).IgnoreError();
        return absl::ResourceExhaustedError("no space left on the disk (injected)");
      }
      const bool alive = !owner_.failed();
      if (owner_.Use()) return base_->Append(bytes);
      if (alive) base_->Append(bytes.substr(0, bytes.size() / 2)).IgnoreError();
      return Dead();
    }
    absl::Status Sync() override {
      if (owner_.fault_ == DiskFault::kSyncFails) return absl::UnknownError("I/O error (injected)");
      return owner_.Use() ? base_->Sync() : Dead();
    }

   private:
    FaultyFileSystem& owner_;
    const std::unique_ptr<WritableFile> base_;
  };

  static absl::Status Dead() { return absl::UnavailableError("the disk is gone (injected)"); }
  bool Use() { return left_ >= 0 && --left_ >= 0; }

  FileSystem& base_;
  std::atomic<int> left_ = 1 << 30;
  std::atomic<DiskFault> fault_ = DiskFault::kNone;
  std::atomic<int64_t> free_bytes_ = -1;
};

}  // namespace anneal::testing
