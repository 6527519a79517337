#include "coordinator/api/allowed_roots.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOk;
using ::anneal::testing::IsOkAndHolds;
using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;

namespace fs = std::filesystem;

class AllowedRootsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(folder_ + "/shared/deep");
    fs::create_directories(folder_ + "/shared-not");
    std::ofstream(folder_ + "/shared/deep/a.jsonl") << "{}";
    std::ofstream(folder_ + "/shared-not/secret") << "s";
  }

  const testing::TempDir dir_;
  const std::string folder_ = fs::canonical(dir_.path()).string();
};

TEST_F(AllowedRootsTest, PathsInsideResolveToTheirRealPlace) {
  const AllowedRoots roots({folder_ + "/shared"});
  EXPECT_THAT(roots.Resolve(folder_ + "/shared/deep/a.jsonl"),
              IsOkAndHolds(folder_ + "/shared/deep/a.jsonl"));
  fs::create_symlink(folder_ + "/shared/deep", folder_ + "/shared/link");
  EXPECT_THAT(roots.Resolve(folder_ + "/shared/link/a.jsonl"),
              IsOkAndHolds(folder_ + "/shared/deep/a.jsonl"));
  fs::create_symlink(folder_ + "/shared", folder_ + "/alias");
  EXPECT_THAT(AllowedRoots({folder_ + "/alias"}).Resolve(folder_ + "/alias/deep/a.jsonl"),
              IsOkAndHolds(folder_ + "/shared/deep/a.jsonl"));
  EXPECT_THAT(roots.Resolve(folder_ + "/shared/none"), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(AllowedRootsTest, NoWayLeadsOut) {
  const AllowedRoots roots({folder_ + "/shared"});
  fs::create_symlink(folder_ + "/shared-not/secret", folder_ + "/shared/innocent");
  fs::create_symlink(folder_ + "/shared-not", folder_ + "/shared/folder");
  for (const std::string& path :
       {folder_ + "/shared-not/secret", folder_ + "/shared/../shared-not/secret",
        folder_ + "/shared/innocent", folder_ + "/shared/folder/secret", std::string("/etc/passwd"),
        folder_ + "/shared-not/none", folder_ + "/shared/folder/none"}) {
    EXPECT_THAT(roots.Resolve(path), StatusIs(absl::StatusCode::kPermissionDenied)) << path;
  }
  EXPECT_THAT(AllowedRoots({}).Resolve(folder_),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("--allowed-root")));
}

TEST_F(AllowedRootsTest, FoldersThatMoveAreFoundWhereTheyAreASecondLater) {
  SimulatedClock clock;
  fs::create_directories(folder_ + "/own");
  const std::string file = folder_ + "/later/deep/a.jsonl";
  const AllowedRoots roots({folder_ + "/later"}, {folder_ + "/own"}, clock);
  EXPECT_THAT(roots.Resolve(file), StatusIs(absl::StatusCode::kPermissionDenied));
  fs::create_symlink(folder_ + "/shared", folder_ + "/later");
  clock.AdvanceTime(absl::Seconds(1));
  EXPECT_THAT(roots.Resolve(file), IsOkAndHolds(folder_ + "/shared/deep/a.jsonl"));
  // The service's own folder is now what the root leads to.
  fs::remove(folder_ + "/own");
  fs::create_symlink(folder_ + "/shared", folder_ + "/own");
  clock.AdvanceTime(absl::Seconds(1));
  EXPECT_THAT(roots.Resolve(file), StatusIs(absl::StatusCode::kPermissionDenied));
}

TEST_F(AllowedRootsTest, WhereOurOwnFoldersAreNotYetNothingIsRemembered) {
  SimulatedClock clock;
  const AllowedRoots roots({folder_ + "/shared"}, {folder_ + "/own"}, clock);
  EXPECT_THAT(roots.Resolve(folder_ + "/shared/deep/a.jsonl"), IsOk());
  fs::create_symlink(folder_ + "/shared", folder_ + "/own");
  EXPECT_THAT(roots.Resolve(folder_ + "/shared/deep/a.jsonl"),
              StatusIs(absl::StatusCode::kPermissionDenied));
}

TEST_F(AllowedRootsTest, ANameMayEndAsTheKernelMarksWhatIsGone) {
  std::ofstream(folder_ + "/shared/a (deleted)") << "{}";
  EXPECT_THAT(AllowedRoots({folder_ + "/shared"}).Resolve(folder_ + "/shared/a (deleted)"),
              IsOkAndHolds(folder_ + "/shared/a (deleted)"));
}

TEST_F(AllowedRootsTest, OpensWhatItFindsAndNothingThatTakesItsPlace) {
  const AllowedRoots roots({folder_ + "/shared"});
  const auto read = [&](const std::string& path) -> absl::StatusOr<std::string> {
    ANNEAL_ASSIGN_OR_RETURN(const UniqueFd file, roots.Open(path));
    return ReadOpenFile(file.get(), path, 100);
  };
  fs::create_symlink("deep", folder_ + "/shared/link");
  EXPECT_THAT(read(folder_ + "/shared/link/a.jsonl"), IsOkAndHolds("{}"));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const AllowedRoots::Place place,
                              roots.Find(folder_ + "/shared/link/a.jsonl"));
  EXPECT_EQ(place.root, folder_ + "/shared");
  EXPECT_EQ(place.path, folder_ + "/shared/deep/a.jsonl");
  fs::remove(folder_ + "/shared/deep/a.jsonl");
  fs::create_symlink(folder_ + "/shared-not/secret", folder_ + "/shared/deep/a.jsonl");
  EXPECT_THAT(read(folder_ + "/shared/link/a.jsonl"),
              StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_THAT(read(folder_ + "/shared/deep"), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(AllowedRootsTest, TheServicesOwnFoldersAreNotAmongThem) {
  fs::create_directories(folder_ + "/storage/blobs");
  std::ofstream(folder_ + "/storage/blobs/x") << "of another project";
  const AllowedRoots roots({folder_, folder_ + "/storage/blobs"}, {folder_ + "/storage"});
  fs::create_symlink(folder_ + "/storage", folder_ + "/shared/way");
  for (const std::string& path : {folder_ + "/storage", folder_ + "/storage/blobs/x",
                                  folder_ + "/storage/none", folder_ + "/shared/../storage/blobs/x",
                                  folder_ + "/shared/way/blobs/x", folder_ + "/shared/way/none"}) {
    EXPECT_THAT(roots.Resolve(path), StatusIs(absl::StatusCode::kPermissionDenied)) << path;
  }
  EXPECT_THAT(roots.Resolve(folder_ + "/shared/deep/a.jsonl"),
              IsOkAndHolds(folder_ + "/shared/deep/a.jsonl"));
  std::ofstream(folder_ + "/storage-of-mine") << "";
  EXPECT_THAT(roots.Resolve(folder_ + "/storage-of-mine"),
              IsOkAndHolds(folder_ + "/storage-of-mine"));
  // As `anneal up` has it.
  EXPECT_THAT(AllowedRoots({"/"}, {folder_ + "/storage"}).Resolve(folder_ + "/storage/blobs/x"),
              StatusIs(absl::StatusCode::kPermissionDenied));
}

}  // namespace
}  // namespace anneal
