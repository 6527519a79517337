#include "worker/prepare/output_folder.h"

#include <filesystem>
#include <fstream>

#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal::prepare {
namespace {

using ::anneal::testing::StatusIs;

class OutputFolderTest : public ::testing::Test {
 protected:
  std::string Path(const std::string& name) const { return dir_.path() + "/" + name; }
  static void Write(const std::string& path, const std::string& text) {
    std::ofstream(path) << text;
  }
  static std::string Read(const std::string& path) {
    std::ifstream file(path);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }
  int Entries() const {
    const std::filesystem::directory_iterator entries(dir_.path());
    return static_cast<int>(std::distance(begin(entries), end(entries)));
  }

  testing::TempDir dir_;
};

TEST_F(OutputFolderTest, NothingIsThereBeforePublishAndNothingElseAfter) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(OutputFolder folder, OutputFolder::Create(Path("deep/out"), "g1"));
  Write(folder.File("a"), "1");
  EXPECT_FALSE(std::filesystem::exists(Path("deep/out")));
  ANNEAL_EXPECT_OK(folder.Publish(true));
  EXPECT_EQ(Read(Path("deep/out/a")), "1");
  EXPECT_EQ(Entries(), 1);
}

TEST_F(OutputFolderTest, WhatIsNotPublishedGoesAway) {
  {
    ANNEAL_ASSERT_OK_AND_ASSIGN(OutputFolder folder, OutputFolder::Create(Path("out"), "g1"));
    Write(folder.File("a"), "1");
    EXPECT_EQ(Entries(), 1);
  }
  EXPECT_EQ(Entries(), 0);
}

TEST_F(OutputFolderTest, ALaterAttemptReplacesOrLeavesTheEarlierOne) {
  const auto write = [&](const std::string& text, bool replace) {
    OutputFolder folder = OutputFolder::Create(Path("out"), "g" + text).value();
    Write(folder.File("a"), text);
    return folder.Publish(replace);
  };
  ANNEAL_EXPECT_OK(write("1", true));
  ANNEAL_EXPECT_OK(write("2", true));
  EXPECT_EQ(Read(Path("out/a")), "2");
  EXPECT_THAT(write("3", false), StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_EQ(Read(Path("out/a")), "2");
  EXPECT_EQ(Entries(), 1);
}

TEST_F(OutputFolderTest, TakesOverFilesOfAnotherFolder) {
  std::filesystem::create_directory(Path("source"));
  Write(Path("source/a"), "1");
  ANNEAL_ASSERT_OK_AND_ASSIGN(OutputFolder folder, OutputFolder::Create(Path("out"), "g1"));
  Write(folder.File("old"), "x");
  ANNEAL_EXPECT_OK(folder.Clear());
  ANNEAL_EXPECT_OK(folder.AddAllOf(Path("source")));
  ANNEAL_EXPECT_OK(folder.Publish(true));
  EXPECT_EQ(Read(Path("out/a")), "1");
  EXPECT_FALSE(std::filesystem::exists(Path("out/old")));
  EXPECT_THAT(OutputFolder::Create(Path("source/a/b"), "g1"), ::testing::Not(testing::IsOk()));
}

}  // namespace
}  // namespace anneal::prepare
