#include "worker/keeper/program_path.h"

#include <filesystem>
#include <string>

#include "common/base/temp_dir.h"
#include "gtest/gtest.h"

namespace anneal {
namespace {

TEST(ProgramPathTest, KeepsSymbolicLinksAsTheyAre) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  const testing::TempDir dir;
  const std::string link = dir.path() + "/current";
  std::filesystem::create_symlink(self, link);
  EXPECT_EQ(OwnProgramPath(self, ""), self);
  EXPECT_EQ(OwnProgramPath(link, ""), link);
  // Relative to the present folder, and along PATH.
  const std::string relative = std::filesystem::relative(dir.path()).string() + "/current";
  EXPECT_EQ(OwnProgramPath(relative, ""),
            std::filesystem::current_path().string() + "/" + relative);
  EXPECT_EQ(OwnProgramPath("current", "/nowhere:" + dir.path()), link);
  // What does not lead here.
  EXPECT_EQ(OwnProgramPath("current", "/nowhere"), self);
  EXPECT_EQ(OwnProgramPath("/bin/sh", ""), self);
  EXPECT_EQ(OwnProgramPath("", ""), self);
}

}  // namespace
}  // namespace anneal
