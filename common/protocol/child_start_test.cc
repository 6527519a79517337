#include "common/protocol/child_start.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "common/protocol/line_socket.h"
#include "common/protocol/run_folder_layout.h"

namespace anneal::protocol {
namespace {

using ::anneal::testing::IsOkAndHolds;
using ::anneal::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ChildStartTest : public ::testing::Test {
 protected:
  ChildStartTest()
      : start_{.run_dir = temp_.path() + "/run",
               .log_path = temp_.path() + "/jobs/j/logs/rank0.log",
               .lock_paths = {temp_.path() + "/a.lock", temp_.path() + "/b.lock"},
               .arguments = {"--socket", "s"}} {
    std::filesystem::create_directory(start_.run_dir);
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    keeper_ = UniqueFd(ends[0]);
    spare_ = UniqueFd(ends[1]);
  }

  const testing::TempDir temp_;
  const ChildStart start_;
  UniqueFd keeper_, spare_;
};

TEST_F(ChildStartTest, ASpareGetsWhatTheKeeperSays) {
  {
    LineConnection connection(std::move(keeper_));
    connection.Queue(FormatChildStart(start_));
    ANNEAL_ASSERT_OK(connection.Flush());
  }  // closes its end, as the keeper does
  ANNEAL_ASSERT_OK_AND_ASSIGN(const ChildStart start, AwaitChildStart(std::move(spare_)));
  EXPECT_EQ(start.run_dir, start_.run_dir);
  EXPECT_EQ(start.log_path, start_.log_path);
  EXPECT_EQ(start.lock_paths, start_.lock_paths);
  EXPECT_THAT(start.arguments, ElementsAre("--socket", "s"));
}

TEST_F(ChildStartTest, ASpareThatIsNotNeededIsToldSo) {
  keeper_ = UniqueFd();
  EXPECT_THAT(AwaitChildStart(std::move(spare_)), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(ChildStartTest, NonsenseIsRefused) {
  ASSERT_EQ(::write(keeper_.get(), "{\"run_dir\": 5}\n", 15), 15);
  EXPECT_THAT(AwaitChildStart(std::move(spare_)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not the start of a child")));
}

// In a process of its own, as it changes what the process writes to.
TEST_F(ChildStartTest, AProcessThatEnteredItsRunHoldsTheLocksAndWritesToTheLog) {
  const pid_t child = ::fork();
  if (child == 0) {
    const bool entered = EnterRun(start_).ok();
    [[maybe_unused]] ssize_t ignored = ::write(STDOUT_FILENO, entered ? "out" : "no", 3);
    ignored = ::write(STDERR_FILENO, "err", 3);
    for (const std::string& path : start_.lock_paths) {
      const int fd = ::open(path.c_str(), O_RDWR);
      if (::flock(fd, LOCK_EX | LOCK_NB) == 0) ::_exit(1);
    }
    ::_exit(0);
  }
  int wait_status = 0;
  ASSERT_EQ(::waitpid(child, &wait_status, 0), child);
  EXPECT_EQ(wait_status, 0);
  EXPECT_THAT(ReadSmallFile(start_.log_path), IsOkAndHolds("outerr"));
}

TEST_F(ChildStartTest, ATakenLockRefusesTheStartAndLeavesARecord) {
  const UniqueFd holder(::open(start_.lock_paths[1].c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(::flock(holder.get(), LOCK_EX | LOCK_NB), 0);
  const absl::Status status = EnterRun(start_);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("b.lock")));
  EXPECT_FALSE(std::filesystem::exists(start_.log_path));
  EXPECT_EQ(LeaveUnstarted(start_.run_dir, status), 127);
  EXPECT_THAT(ReadSmallFile(start_.run_dir + "/" + kExitName),
              IsOkAndHolds(HasSubstr("SLOT_BUSY")));
}

}  // namespace
}  // namespace anneal::protocol
