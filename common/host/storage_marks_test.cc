#include "common/host/storage_marks.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "common/host/testing/wrapped_file_system.h"
#include "gmock/gmock.h"

namespace anneal {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::WrappedFileSystem;

// Whoever sleeps moves it.
class SteppingClock : public SimulatedClock {
 public:
  void Sleep(absl::Duration duration) override { AdvanceTime(duration); }
};

// Another machine's cache: what was read once is shown again, also when it is gone, until the cache
// is told to look; what was not there, too. Files whose names end in `only` alone are cached.
class Caching : public WrappedFileSystem {
 public:
  Caching(FileSystem& base, Clock& clock, std::string only = "")
      : WrappedFileSystem(base), clock_(clock), only_(std::move(only)) {}
  // From now on, that is.
  void LookAgainAfter(absl::Duration duration) { end_ = clock_.MonotonicNow() + duration; }
  // The cache gets the beginning of what there is now, and keeps the rest: a mixture.
  void MixInTheBeginning() { mixes_ = true; }

  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) override {
    const bool caches = absl::EndsWith(path, only_) && clock_.MonotonicNow() < end_;
    const auto found = cache_.find(path);
    if (caches && found != cache_.end() && !mixes_) return std::make_unique<File>(found->second);
    absl::StatusOr<std::string> now = ReadSmallFile(base(), path, 1 << 20);
    if (!now.ok()) return now.status();
    if (mixes_ && found != cache_.end() && now->size() > 1000)
      found->second.replace(0, 1000, *now, 0, 1000);
    else
      cache_[path] = *std::move(now);
    return std::make_unique<File>(cache_[path]);
  }

 private:
  struct File : ReadableFile {
    explicit File(std::string content) : content(std::move(content)) {}
    absl::StatusOr<std::string> ReadAt(int64_t offset, int64_t bytes) override {
      const auto begin = std::min(static_cast<size_t>(offset), content.size());
      return content.substr(begin, static_cast<size_t>(bytes));
    }
    const std::string content;
  };

  Clock& clock_;
  const std::string only_;
  absl::Duration end_ = absl::InfiniteDuration();
  bool mixes_ = false;
  std::map<std::string, std::string> cache_;
};

class StorageMarksTest : public ::testing::Test {
 protected:
  std::unique_ptr<StorageMark> Leave(const std::string& name, absl::string_view token = "token") {
    auto mark = StorageMark::Leave(FileSystem::Posix(), folder_, name, token);
    EXPECT_THAT(mark, testing::IsOk());
    return *std::move(mark);
  }
  MarksSeen See(FileSystem& files, const std::vector<std::string>& names) {
    return CheckMarks(files, folder_, names, "token", absl::Seconds(10), clock_);
  }
  v1::Check Look(FileSystem& files, const std::vector<std::string>& names,
                 const std::string& mixture = "") {
    return CheckChanges(files, folder_, names, "token", mixture, absl::Seconds(10), clock_);
  }

  testing::TempDir disk_;
  const std::string folder_ = disk_.path() + "/tmp/doctor";
  SteppingClock clock_;
};

TEST_F(StorageMarksTest, MarksOfOthersAndTheirChangesAreSeen) {
  FileSystem& files = FileSystem::Posix();
  auto w1 = Leave("w1"), w2 = Leave("w2");
  const MarksSeen seen = See(files, {"w1", "w2"});
  EXPECT_EQ(seen.check.verdict(), v1::Check::VERDICT_OK) << seen.check.ShortDebugString();
  EXPECT_THAT(seen.check.measured(), HasSubstr("the files of 2 others"));
  EXPECT_THAT(seen.names, ElementsAre("w1", "w2"));
  ANNEAL_ASSERT_OK(w1->Change());
  EXPECT_EQ(FindMixture(files, folder_, {"w1", "w2"}, "token"), "") << "one is new, the other old";
  ANNEAL_ASSERT_OK(w2->Change());
  const v1::Check check = Look(files, {"w1", "w2"});
  EXPECT_EQ(check.verdict(), v1::Check::VERDICT_OK) << check.ShortDebugString();
  EXPECT_EQ(check.measured(), "of 2 others: renamed over after 0, growth after 0, removal after 0");
  w1.reset();
  w2.reset();
  EXPECT_TRUE(std::filesystem::is_empty(folder_)) << "nothing stays behind";
}

TEST_F(StorageMarksTest, AMarkThatIsMissingOrAnothersIsNamed) {
  const auto w1 = Leave("w1"), w2 = Leave("w2", "of another time");
  const MarksSeen seen = See(FileSystem::Posix(), {"w1", "w2", "w3"});
  EXPECT_EQ(seen.check.verdict(), v1::Check::VERDICT_FAILED);
  EXPECT_THAT(seen.check.measured(), HasSubstr("written by w2, w3 in " + folder_));
  EXPECT_THAT(seen.check.advice(), HasSubstr("--storage-root"));
  EXPECT_THAT(seen.names, ElementsAre("w1"));
}

// Its files appear to readers only after a while, as with a long attribute cache.
class LateSight : public WrappedFileSystem {
 public:
  LateSight(FileSystem& base, absl::Duration when, Clock& clock)
      : WrappedFileSystem(base), clock_(clock), seen_from_(clock.MonotonicNow() + when) {}
  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) override {
    if (clock_.MonotonicNow() < seen_from_) return absl::NotFoundError(path);
    return base().OpenForRead(path);
  }

 private:
  Clock& clock_;
  const absl::Duration seen_from_;
};

TEST_F(StorageMarksTest, AMarkThatIsSeenLateIsAWarning) {
  const auto w1 = Leave("w1");
  LateSight files(FileSystem::Posix(), absl::Seconds(5), clock_);
  const v1::Check check = See(files, {"w1"}).check;
  EXPECT_EQ(check.verdict(), v1::Check::VERDICT_WARNING);
  EXPECT_THAT(check.advice(), HasSubstr("actimeo"));
}

TEST_F(StorageMarksTest, OldContentThatStaysIsAFailure) {
  const auto w1 = Leave("w1"), w2 = Leave("w2");
  Caching files(FileSystem::Posix(), clock_);
  ASSERT_THAT(See(files, {"w1", "w2"}).names, ElementsAre("w1", "w2"));
  ANNEAL_ASSERT_OK(w2->Change());
  const v1::Check check = Look(files, {"w2"});
  EXPECT_EQ(check.verdict(), v1::Check::VERDICT_FAILED);
  EXPECT_THAT(
      check.measured(),
      AllOf(HasSubstr("after 10s still the old content"), HasSubstr("renamed over not yet of w2"),
            HasSubstr("growth not yet of w2"), HasSubstr("removal not yet of w2")));
  EXPECT_THAT(check.advice(), HasSubstr("actimeo"));
}

TEST_F(StorageMarksTest, ChangesThatAreSeenLateAreAWarningWithTheDelay) {
  const auto w1 = Leave("w1");
  Caching files(FileSystem::Posix(), clock_);
  See(files, {"w1"});
  ANNEAL_ASSERT_OK(w1->Change());
  files.LookAgainAfter(absl::Seconds(5));
  const v1::Check check = Look(files, {"w1"});
  EXPECT_EQ(check.verdict(), v1::Check::VERDICT_WARNING) << check.ShortDebugString();
  EXPECT_EQ(check.measured(),
            "of 1 others: renamed over after 5s, growth after 5s, removal after 5s");
}

TEST_F(StorageMarksTest, GrowthAndRemovalsThatStayHiddenAreWarnings) {
  for (const auto& [suffix, expected] :
       {std::pair(".grows", "growth not yet of w1"), std::pair(".goes", "removal not yet of w1")}) {
    const auto w1 = Leave("w1");
    Caching files(FileSystem::Posix(), clock_, suffix);
    See(files, {"w1"});
    ANNEAL_ASSERT_OK(w1->Change());
    const v1::Check check = Look(files, {"w1"});
    EXPECT_EQ(check.verdict(), v1::Check::VERDICT_WARNING);
    EXPECT_THAT(check.measured(), AllOf(HasSubstr(expected), HasSubstr("renamed over after 0")));
    EXPECT_THAT(check.advice(), HasSubstr("logs --follow"));
  }
}

TEST_F(StorageMarksTest, AMixtureOfOldAndNewIsAFailure) {
  const auto w1 = Leave("w1");
  Caching files(FileSystem::Posix(), clock_);
  See(files, {"w1"});
  ANNEAL_ASSERT_OK(w1->Change());
  files.MixInTheBeginning();
  EXPECT_THAT(FindMixture(files, folder_, {"w1"}, "token"), HasSubstr("neither its old nor"));
  const v1::Check check = Look(files, {"w1"});
  EXPECT_EQ(check.verdict(), v1::Check::VERDICT_FAILED);
  EXPECT_THAT(check.measured(), HasSubstr(folder_ + "/w1 is neither"));
}

TEST_F(StorageMarksTest, AFileThatIsAwayDuringARenameIsAFailure) {
  const auto w1 = Leave("w1");
  std::filesystem::remove(folder_ + "/w1");
  EXPECT_THAT(FindMixture(FileSystem::Posix(), folder_, {"w1"}, "token"),
              HasSubstr("was not there while"));
  const v1::Check check = Look(FileSystem::Posix(), {}, "/w1 was not there");
  EXPECT_EQ(check.verdict(), v1::Check::VERDICT_FAILED);
  EXPECT_EQ(check.measured(), "/w1 was not there");
}

TEST_F(StorageMarksTest, AFolderThatCannotBeMadeIsAnError) {
  EXPECT_FALSE(StorageMark::Leave(FileSystem::Posix(), "/proc/doctor", "w1", "token").ok());
}

}  // namespace
}  // namespace anneal
