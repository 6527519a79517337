#include "worker/daemon/task_exit.h"

#include <csignal>
#include <fstream>
#include <string>

#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"

namespace anneal {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

const absl::StatusOr<protocol::ExitRecord> kNoRecord = absl::NotFoundError("no record");

TEST(TaskExitTest, TheChildsOwnWordsComeFirst) {
  const protocol::ExitRecord record{
      .status_code = 8, .reason = "OUT_OF_MEMORY", .message = "no room"};
  const internal::TaskExit exit = MakeTaskExit({.exit_code = 1}, record);
  EXPECT_EQ(exit.exit_code(), 1);
  EXPECT_EQ(exit.status_code(), 8);
  EXPECT_EQ(exit.reason(), "OUT_OF_MEMORY");
  EXPECT_EQ(exit.message(), "no room");
}

TEST(TaskExitTest, ARecordOfSuccessNeedsASuccessfulEnd) {
  const protocol::ExitRecord success{.message = "done"};
  EXPECT_EQ(MakeTaskExit({}, success).status_code(), 0);
  EXPECT_EQ(MakeTaskExit({}, success).message(), "done");
  const internal::TaskExit killed = MakeTaskExit({.exit_code = -1, .signal = SIGSEGV}, success);
  EXPECT_EQ(killed.status_code(), static_cast<int>(absl::StatusCode::kUnknown));
  EXPECT_EQ(killed.message(), "killed by signal 11 (SIGSEGV)");
}

TEST(TaskExitTest, WithoutARecordTheEndSpeaks) {
  EXPECT_EQ(MakeTaskExit({}, kNoRecord).status_code(), 0);
  EXPECT_EQ(MakeTaskExit({.exit_code = 7}, kNoRecord).message(),
            "exited with status 7 without saying why");
  EXPECT_EQ(MakeTaskExit({.exit_code = -1, .signal = 9}, kNoRecord).reason(), "KILLED");
  EXPECT_EQ(MakeTaskExit({.exit_code = -1, .signal = 9, .lost = true}, kNoRecord).reason(),
            "WORKER_RESTARTED");
  EXPECT_EQ(MakeRefusal(WithReason(absl::UnavailableError("later"), "DRAINING")).reason(),
            "DRAINING");
}

TEST(TaskExitTest, TheLogsTailIsWholeLinesOfValidText) {
  const testing::TempDir temp;
  const std::string path = temp.path() + "/log";
  EXPECT_EQ(ReadLogTail(path), "");
  std::ofstream(path) << "only \xff line";
  EXPECT_EQ(ReadLogTail(path), "only \xEF\xBF\xBD line");
  std::ofstream log(path);
  for (int i = 0; i < 1000; ++i) log << "line " << i << "\n";
  log << std::flush;
  const std::string tail = ReadLogTail(path);
  EXPECT_LE(tail.size(), kLogTailBytes);
  EXPECT_GT(tail.size(), kLogTailBytes - 20);
  EXPECT_THAT(tail, StartsWith("line "));
  EXPECT_THAT(tail, EndsWith("line 999\n"));
  std::ofstream(path) << std::string(10'000, '\xff');  // grows threefold when made valid
  EXPECT_LE(ReadLogTail(path).size(), kLogTailBytes);
}

}  // namespace
}  // namespace anneal
