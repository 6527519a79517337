#include "common/storage/open_beneath.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"

namespace anneal {
namespace {

namespace fs = std::filesystem;

using ::anneal::testing::IsOkAndHolds;
using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;

using Open = absl::StatusOr<UniqueFd> (*)(const std::string&, const std::string&);

class OpenBeneathTest : public ::testing::TestWithParam<Open> {
 protected:
  void SetUp() override {
    fs::create_directories(root_ + "/deep/er");
    fs::create_directories(folder_ + "/private");
    Write(root_ + "/deep/er/a.jsonl", "allowed");
    Write(folder_ + "/private/a.jsonl", "secret");
  }
  static void Write(const std::string& path, const std::string& text) {
    std::ofstream(path) << text;
  }
  absl::StatusOr<std::string> Read(const std::string& path) { return ReadBelow(root_, path); }
  static absl::StatusOr<std::string> ReadBelow(const std::string& root, const std::string& path) {
    ANNEAL_ASSIGN_OR_RETURN(const UniqueFd file, GetParam()(root, path));
    return ReadOpenFile(file.get(), path, 1000);
  }

  const testing::TempDir dir_;
  const std::string folder_ = fs::canonical(dir_.path()).string();
  const std::string root_ = folder_ + "/shared";
  const std::string path_ = root_ + "/deep/er/a.jsonl";
};

TEST_P(OpenBeneathTest, ReadsWhatLiesThere) {
  EXPECT_THAT(Read(path_), IsOkAndHolds("allowed"));
  EXPECT_THAT(ReadBelow(root_ + "/", path_), IsOkAndHolds("allowed"));
  EXPECT_THAT(ReadBelow("/", path_), IsOkAndHolds("allowed"));
  EXPECT_THAT(Read(root_ + "/none/a"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("none/a")));
}

TEST_P(OpenBeneathTest, TheRootMayBeReachedOverALink) {
  fs::rename(root_, folder_ + "/disk");
  fs::create_symlink(folder_ + "/disk", root_);
  EXPECT_THAT(Read(path_), IsOkAndHolds("allowed"));
}

TEST_P(OpenBeneathTest, FollowsNoLinkBelowTheRoot) {
  const auto kRefused = StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr(path_));
  fs::remove(path_);
  fs::create_symlink(folder_ + "/private/a.jsonl", path_);
  EXPECT_THAT(Read(path_), kRefused);
  fs::remove_all(root_ + "/deep/er");
  fs::create_symlink(folder_ + "/private", root_ + "/deep/er");
  EXPECT_THAT(Read(path_), kRefused);
  fs::remove_all(root_ + "/deep");
  fs::create_symlink("/proc/self/root" + folder_ + "/private", root_ + "/deep");
  EXPECT_THAT(Read(path_), kRefused);
}

TEST_P(OpenBeneathTest, RefusesPathsThatAreNotBelow) {
  for (const std::string& path :
       {folder_ + "/private/a.jsonl", root_ + "/../private/a.jsonl", root_, root_ + "/",
        folder_ + "/shared-not/a", std::string("deep/er/a.jsonl"), root_ + "/deep/./er/a.jsonl"}) {
    EXPECT_THAT(Read(path), StatusIs(absl::StatusCode::kPermissionDenied)) << path;
  }
}

TEST_P(OpenBeneathTest, APipeOrAFolderIsRefusedAtOnce) {
  fs::remove(path_);
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  EXPECT_THAT(Read(path_), StatusIs(absl::StatusCode::kInvalidArgument,
                                    HasSubstr(path_ + " is not a regular file")));
  EXPECT_THAT(Read(root_ + "/deep"), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(RootedPathTest, CarriesItsRoot) {
  EXPECT_EQ(RootedPath("/srv/shared", "/srv/shared/deep/a"), "/srv/shared/./deep/a");
  EXPECT_EQ(RootedPath("/", "/srv/a"), "/./srv/a");
  EXPECT_EQ(PlainPath("/srv/shared/./deep/a"), "/srv/shared/deep/a");
  EXPECT_EQ(PlainPath("/./srv/a"), "/srv/a");
  EXPECT_EQ(PlainPath("/srv/a"), "/srv/a");
}

TEST(RootedPathTest, IsOpenedBelowItAlone) {
  const testing::TempDir dir;
  const std::string root = fs::canonical(dir.path()).string(), path = root + "/a";
  std::ofstream(path) << "x";
  fs::create_symlink("a", root + "/link");
  ANNEAL_EXPECT_OK(OpenRooted(RootedPath(root, path)));
  ANNEAL_EXPECT_OK(OpenRooted(RootedPath("/", path)));
  ANNEAL_EXPECT_OK(OpenRooted(root + "/link"));
  EXPECT_THAT(OpenRooted(root + "/./link"), StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_THAT(OpenRooted("/." + root + "/link"), StatusIs(absl::StatusCode::kPermissionDenied));
}

INSTANTIATE_TEST_SUITE_P(Kernels, OpenBeneathTest,
                         ::testing::Values(&OpenBeneath, &OpenBeneathStepwise));

}  // namespace
}  // namespace anneal
