#include "common/storage/storage_root.h"

#include <unistd.h>

#include <cstdlib>

#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "common/storage/layout.h"
#include "common/storage/testing/faulty_file_system.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOk;
using ::anneal::testing::IsOkAndHolds;
using ::anneal::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

class StorageRootTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<StorageRoot>> Open(const std::string& path) {
    return StorageRoot::Open(path, files_, clock_, random_);
  }
  void Write(const std::string& path, absl::string_view text) {
    ANNEAL_ASSERT_OK_AND_ASSIGN(auto file, files_.OpenForAppend(path, 0));
    ANNEAL_ASSERT_OK(file->Append(text));
    ANNEAL_ASSERT_OK(file->Sync());
  }

  const testing::TempDir temp_;
  const std::string folder_ = temp_.path();
  FileSystem& files_ = FileSystem::Posix();
  SimulatedClock clock_;
  SeededRandom random_{1};
};

TEST_F(StorageRootTest, IsMadeOnceAndOpensAgain) {
  const std::string path = folder_ + "/a/root";
  ANNEAL_ASSERT_OK(Open(path));
  EXPECT_THAT(ReadSmallFile(files_, path + "/FORMAT", 100), IsOkAndHolds("anneal-storage 1\n"));
  ANNEAL_EXPECT_OK(Open(path));
}

TEST_F(StorageRootTest, RefusesWhatIsNotItsOwn) {
  const auto kRefused = absl::StatusCode::kFailedPrecondition;
  Write(folder_ + "/thesis.tex", "x");
  EXPECT_THAT(Open(folder_), StatusIs(kRefused, HasSubstr("thesis.tex")));
  Write(folder_ + "/FORMAT", "anneal-storage 2\n");
  EXPECT_THAT(Open(folder_), StatusIs(kRefused, HasSubstr("newer")));
  Write(folder_ + "/FORMAT", "something\n");
  EXPECT_THAT(Open(folder_), StatusIs(kRefused, HasSubstr("FORMAT")));
  EXPECT_THAT(Open("relative/root"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("absolute")));
}

TEST_F(StorageRootTest, WhereNoFolderCanBeMadeThatIsSaid) {
  EXPECT_THAT(files_.MakeFolders("/proc/no-such/folder"), Not(IsOk()));
}

TEST_F(StorageRootTest, PublishesFilesAndFoldersWhole) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto root, Open(folder_ + "/root"));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const std::string model, root->NewTemporary("import"));
  ANNEAL_ASSERT_OK(files_.MakeFolders(model));
  Write(model + "/config.json", "{}");
  ANNEAL_ASSERT_OK(root->Publish(model, ModelPath("default", "tiny")));
  EXPECT_THAT(ReadSmallFile(files_, root->Absolute("models/default/tiny/config.json"), 10),
              IsOkAndHolds("{}"));

  ANNEAL_ASSERT_OK_AND_ASSIGN(const std::string second, root->NewTemporary("import"));
  ANNEAL_ASSERT_OK(files_.MakeFolders(second));
  EXPECT_THAT(root->Publish(second, ModelPath("default", "tiny")),
              StatusIs(absl::StatusCode::kAlreadyExists));
}

TEST_F(StorageRootTest, TrashIsKeptForADayAndThenDeleted) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto root, Open(folder_ + "/root"));
  ANNEAL_ASSERT_OK(files_.MakeFolders(root->Absolute("outputs/j")));
  ANNEAL_ASSERT_OK(root->MoveToTrash("outputs/j"));
  ANNEAL_ASSERT_OK(root->MoveToTrash("outputs/j"));
  EXPECT_THAT(files_.List(root->Absolute("outputs")), IsOkAndHolds(IsEmpty()));
  clock_.AdvanceTime(absl::Hours(24));
  ANNEAL_ASSERT_OK(root->DeleteOldTrash());
  EXPECT_THAT(files_.List(root->Absolute("trash")), IsOkAndHolds(SizeIs(1)));
  clock_.AdvanceTime(absl::Hours(24));
  ANNEAL_ASSERT_OK(root->DeleteOldTrash());
  EXPECT_THAT(files_.List(root->Absolute("trash")), IsOkAndHolds(IsEmpty()));
}

TEST_F(StorageRootTest, ADeathWhileItIsMadeLeavesNothingInTheWay) {
  for (int n = 0;; ++n) {
    SCOPED_TRACE(n);
    const std::string path = folder_ + "/root" + std::to_string(n);
    testing::FaultyFileSystem faulty(files_);
    faulty.FailAfter(n);
    const absl::Status first = StorageRoot::Open(path, faulty, clock_, random_).status();
    ANNEAL_EXPECT_OK(Open(path));
    if (!faulty.failed()) {
      ANNEAL_EXPECT_OK(first);
      EXPECT_GT(n, 4);
      break;
    }
  }
}

TEST_F(StorageRootTest, CopiesAreEqualAndNeverOverwrite) {
  const std::string text(3 << 20, 'x');
  Write(folder_ + "/from", text);
  ANNEAL_ASSERT_OK(files_.CopyFile(folder_ + "/from", folder_ + "/to"));
  EXPECT_THAT(ReadSmallFile(files_, folder_ + "/to", 4 << 20), IsOkAndHolds(text));
  EXPECT_THAT(files_.CopyFile(folder_ + "/from", folder_ + "/to"),
              StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_THAT(files_.CopyFile(folder_ + "/none", folder_ + "/new"),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST(LayoutTest, OnlySafeNamesArePaths) {
  EXPECT_TRUE(IsSafeRelativePath("adapter/adapter_model.safetensors"));
  EXPECT_TRUE(IsSafeRelativePath("..a/b.."));
  for (absl::string_view bad :
       {"", "/etc/passwd", "a/../../etc/passwd", "..", "a//b", "a/", "./a"}) {
    EXPECT_FALSE(IsSafeRelativePath(bad)) << bad;
  }
  EXPECT_FALSE(IsSafeRelativePath(absl::string_view("a\0b", 3)));
  EXPECT_FALSE(IsSafeRelativePath(std::string(2000, 'a')));
  EXPECT_EQ(ModelPath("default", "smollm2-135m"), "models/default/smollm2-135m");
  EXPECT_EQ(BlobPath(std::string(64, 'a')), "blobs/sha256/aa/" + std::string(64, 'a'));
}

}  // namespace
}  // namespace anneal
