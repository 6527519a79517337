#include "worker/daemon/software.h"

#include <filesystem>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal {
namespace {

using ::testing::Contains;
using ::testing::Key;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::Pair;

std::string Library(const std::string& name) {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path().string() +
         "/lib/lib" + name + ".so";
}

TEST(SoftwareTest, SaysWhatIsKnownAndNothingElse) {
  const std::map<std::string, std::string> found = FindSoftware("");
  EXPECT_THAT(found, Contains(Pair("kernel", MatchesRegex("[0-9]+\\.[0-9]+.* .+"))));
  EXPECT_THAT(found, Contains(Pair("glibc", MatchesRegex("[0-9]+\\.[0-9]+"))));
  EXPECT_THAT(found, Contains(Key("compiler")));
  EXPECT_THAT(found, Not(Contains(Key("gpu_driver"))));
  EXPECT_THAT(FindSoftware("libno-such-thing.so"), Not(Contains(Key("gpu_driver"))));
  for (const auto& [name, version] : found) EXPECT_NE(version, "") << name;
}

TEST(SoftwareTest, AsksTheDriver) {
  const std::map<std::string, std::string> found = FindSoftware(Library("fake_nvml"));
  EXPECT_THAT(found, Contains(Pair("gpu_driver", "580.65.06")));
  EXPECT_THAT(found, Contains(Pair("cuda", "13.0")));
  EXPECT_NE(FindSoftware(Library("fake_nvml_broken"))["gpu_driver"], "");
}

}  // namespace
}  // namespace anneal
