#include "worker/supervisor/run_folder.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "common/base/file.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOkAndHolds;
using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::SizeIs;

const protocol::TaskKey kKey{.job = "01hf7yat00abcdefghjkmnpqrs", .generation = 2, .rank = 1};
const TaskFile kTask{.storage_root = "/srv", .slots = {"cpu0"}, .task = {{"rank", 1}}};

class RunFolderTest : public ::testing::Test {
 protected:
  const testing::TempDir temp_;
};

TEST_F(RunFolderTest, RemembersATaskUntilItIsRemoved) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(RunFolder folder, RunFolder::Create(temp_.path(), kKey, kTask));
  EXPECT_THAT(RunFolder::Create(temp_.path(), kKey, kTask),
              StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_THAT(folder.ReadProcess(), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(folder.ReadEnd(), StatusIs(absl::StatusCode::kNotFound));
  ANNEAL_EXPECT_OK(folder.WriteProcess({.pid = 12, .start_time = 34}));
  ANNEAL_EXPECT_OK(folder.WriteEnd({.exit_code = -1, .signal = 9, .lost = true}));

  ANNEAL_ASSERT_OK_AND_ASSIGN(std::vector<RunFolder> found, RunFolder::List(temp_.path()));
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_EQ(found[0].key(), kKey);
  ANNEAL_ASSERT_OK_AND_ASSIGN(TaskFile task, found[0].ReadTask());
  EXPECT_EQ(task.storage_root, "/srv");
  EXPECT_EQ(task.slots, kTask.slots);
  EXPECT_EQ(task.task["rank"], 1);
  EXPECT_THAT(found[0].ReadProcess(), IsOkAndHolds(ProcessIdentity{.pid = 12, .start_time = 34}));
  ANNEAL_ASSERT_OK_AND_ASSIGN(ProcessEnd end, found[0].ReadEnd());
  EXPECT_EQ(end.signal, 9);
  EXPECT_TRUE(end.lost);

  ANNEAL_EXPECT_OK(folder.Remove());
  EXPECT_FALSE(std::filesystem::exists(folder.path()));
}

TEST_F(RunFolderTest, WhatWasNeverStartedIsRemovedAndStrangersStay) {
  ANNEAL_ASSERT_OK(RunFolder::Create(temp_.path(), kKey, kTask));
  const std::string unfinished = temp_.path() + "/01hf7yat00abcdefghjkmnpqrs-g3-prepare0";
  std::filesystem::create_directory(unfinished);
  std::ofstream(unfinished + "/task.json.tmp") << "{";
  std::filesystem::create_directory(temp_.path() + "/lost+found");
  EXPECT_THAT(RunFolder::List(temp_.path()), IsOkAndHolds(SizeIs(1)));
  EXPECT_FALSE(std::filesystem::exists(unfinished));
  EXPECT_TRUE(std::filesystem::exists(temp_.path() + "/lost+found"));
  EXPECT_THAT(RunFolder::List(temp_.path() + "/none"),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("cannot list")));
}

TEST_F(RunFolderTest, DamagedFilesAreRefusedByName) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(RunFolder folder, RunFolder::Create(temp_.path(), kKey, kTask));
  const auto invalid = absl::StatusCode::kInvalidArgument;
  for (const char* text : {"", "{", "[]", "{\"pid\": \"12\"}", "{\"pid\": 12}", "\xff"}) {
    ANNEAL_ASSERT_OK(WriteFileAtomically(folder.FilePath(protocol::kProcessName), text));
    EXPECT_THAT(folder.ReadProcess(), StatusIs(invalid)) << text;
    ANNEAL_ASSERT_OK(WriteFileAtomically(folder.FilePath(protocol::kTaskName), text));
    EXPECT_THAT(folder.ReadTask(), StatusIs(invalid, HasSubstr("task.json"))) << text;
  }
  ANNEAL_ASSERT_OK(
      WriteFileAtomically(folder.FilePath(protocol::kExitName), R"({"status_code": "8"})"));
  EXPECT_THAT(folder.ReadExitRecord(), StatusIs(invalid, HasSubstr("status_code")));
}

TEST(ProcessTest, AProcessIsKnownByItsNumberAndStart) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(ProcessIdentity self, IdentifyProcess(::getpid()));
  EXPECT_GT(self.start_time, 0);
  EXPECT_TRUE(IsAlive(self));
  EXPECT_FALSE(IsAlive({.pid = self.pid, .start_time = self.start_time + 1}));
  EXPECT_THAT(IdentifyProcess(1 << 30), StatusIs(absl::StatusCode::kNotFound));
}

TEST(ProcessTest, EndsAreReadFromWaitStatus) {
  EXPECT_EQ(ProcessEndFromWaitStatus(W_EXITCODE(3, 0)).exit_code, 3);
  EXPECT_EQ(ProcessEndFromWaitStatus(W_EXITCODE(0, SIGKILL)).exit_code, -1);
  EXPECT_EQ(ProcessEndFromWaitStatus(W_EXITCODE(0, SIGKILL)).signal, SIGKILL);
}

}  // namespace
}  // namespace anneal
