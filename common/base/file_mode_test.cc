#include "common/base/file_mode.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "common/base/temp_dir.h"
#include "gtest/gtest.h"

namespace anneal {
namespace {

class FileModeTest : public ::testing::Test {
 protected:
  ~FileModeTest() override { ::umask(before_); }
  static mode_t ModeOf(const std::string& path) {
    struct stat info = {};
    EXPECT_EQ(::stat(path.c_str(), &info), 0);
    return info.st_mode & 0777;
  }

  const testing::TempDir dir_;
  const mode_t before_ = ::umask(022);
};

TEST_F(FileModeTest, FilesAreForTheAccountAndItsGroup) {
  const std::string file = dir_.path() + "/file", folder = dir_.path() + "/folder";
  KeepOthersOut();
  std::ofstream(file) << "x";
  std::filesystem::create_directory(folder);
  EXPECT_EQ(ModeOf(file), 0640u);
  EXPECT_EQ(ModeOf(folder), 0750u);
}

TEST_F(FileModeTest, AStricterUmaskStays) {
  ::umask(077);
  KeepOthersOut();
  EXPECT_EQ(::umask(077), 077u);
}

}  // namespace
}  // namespace anneal
