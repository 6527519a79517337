#include "common/host/storage_checks.h"

#include <filesystem>
#include <string>
#include <utility>

#include "absl/synchronization/notification.h"
#include "common/base/temp_dir.h"
#include "common/host/testing/wrapped_file_system.h"
#include "gmock/gmock.h"

namespace anneal {
namespace {

using ::testing::HasSubstr;
using testing::WrappedFileSystem;

// A rename is a removal and then a copy, as on a mounted object store. Between the first two it
// waits until somebody has looked.
class NotAtomic : public WrappedFileSystem {
 public:
  using WrappedFileSystem::WrappedFileSystem;
  absl::Status Rename(const std::string& from, const std::string& to) override {
    base().RemoveTree(to).IgnoreError();
    missed_.WaitForNotification();
    return base().Rename(from, to);
  }
  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) override {
    auto file = base().OpenForRead(path);
    if (!file.ok() && !missed_.HasBeenNotified()) missed_.Notify();
    return file;
  }

 private:
  absl::Notification missed_;
};

// Syncs fail as after an I/O error, or take their time.
class BadSync : public WrappedFileSystem {
 public:
  BadSync(FileSystem& base, absl::Status result, absl::Duration takes, Clock& clock)
      : WrappedFileSystem(base), result_(std::move(result)), takes_(takes), clock_(clock) {}
  absl::StatusOr<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path,
                                                              int64_t keep) override {
    auto file = base().OpenForAppend(path, keep);
    if (!file.ok()) return file.status();
    return std::make_unique<File>(*this, *std::move(file));
  }

 private:
  struct File : WritableFile {
    File(BadSync& owner, std::unique_ptr<WritableFile> base)
        : owner(owner), base(std::move(base)) {}
    absl::Status Append(absl::string_view bytes) override { return base->Append(bytes); }
    absl::Status Sync() override {
      owner.clock_.Sleep(owner.takes_);
      return owner.result_;
    }
    BadSync& owner;
    const std::unique_ptr<WritableFile> base;
  };

  const absl::Status result_;
  const absl::Duration takes_;
  Clock& clock_;
};

// Whoever sleeps moves it.
class SteppingClock : public SimulatedClock {
 public:
  void Sleep(absl::Duration duration) override { AdvanceTime(duration); }
};

class StorageChecksTest : public ::testing::Test {
 protected:
  testing::TempDir disk_;
  const std::string folder_ = disk_.path() + "/tmp/doctor";
  SteppingClock clock_;
};

TEST_F(StorageChecksTest, ALocalDiskIsGood) {
  const v1::Check check = CheckStorage(FileSystem::Posix(), folder_, clock_);
  EXPECT_EQ(check.verdict(), v1::Check::VERDICT_OK) << check.ShortDebugString();
  EXPECT_THAT(check.measured(), HasSubstr("renames are atomic"));
  EXPECT_FALSE(std::filesystem::exists(folder_)) << "nothing stays behind";
}

TEST_F(StorageChecksTest, ARenameThatIsNotAtomicIsSeen) {
  NotAtomic files(FileSystem::Posix());
  const v1::Check check = CheckStorage(files, folder_, clock_);
  EXPECT_EQ(check.verdict(), v1::Check::VERDICT_FAILED);
  EXPECT_THAT(check.measured(), HasSubstr("not there while another was renamed over it"));
  EXPECT_THAT(check.advice(), HasSubstr("object store"));
}

TEST_F(StorageChecksTest, ASyncThatFailsOrTakesLongIsSeen) {
  BadSync broken(FileSystem::Posix(), absl::UnknownError("I/O error"), absl::ZeroDuration(),
                 clock_);
  const v1::Check failed = CheckStorage(broken, folder_, clock_);
  EXPECT_EQ(failed.verdict(), v1::Check::VERDICT_FAILED);
  EXPECT_EQ(failed.measured(), "I/O error");
  BadSync slow(FileSystem::Posix(), absl::OkStatus(), absl::Seconds(2), clock_);
  const v1::Check warning = CheckStorage(slow, folder_, clock_);
  EXPECT_EQ(warning.verdict(), v1::Check::VERDICT_WARNING);
  EXPECT_THAT(warning.measured(), HasSubstr("takes 2s, at most 2s"));
}

TEST_F(StorageChecksTest, AFolderThatCannotBeMadeIsAFailure) {
  const v1::Check check = CheckStorage(FileSystem::Posix(), "/proc/doctor", clock_);
  EXPECT_EQ(check.verdict(), v1::Check::VERDICT_FAILED);
  EXPECT_THAT(check.measured(), HasSubstr("/proc/doctor"));
}

}  // namespace
}  // namespace anneal
