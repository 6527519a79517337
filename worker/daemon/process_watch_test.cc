#include "worker/daemon/process_watch.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOk;
using ::anneal::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

// A child that does nothing.
class IdleChild {
 public:
  IdleChild() {
    char name[] = "sleep", time[] = "1000";
    char* arguments[] = {name, time, nullptr};
    ANNEAL_CHECK(::posix_spawn(&pid_, "/bin/sleep", nullptr, nullptr, arguments, environ) == 0);
  }
  ~IdleChild() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  // Returns when it stands still.
  void Stop() const {
    ::kill(pid_, SIGSTOP);
    ::waitpid(pid_, nullptr, WUNTRACED);
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
};

const protocol::Status kSaid = {
    .phase = "train",
    .rank = protocol::RankReport{
        .step = 12, .collective = "reduce layers.7 step 13", .collective_sequence = 345}};

TEST(ProcessWatchTest, LooksAtItself) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(const ProcessLook look, LookAtProcess(::getpid()));
  EXPECT_EQ(look.state, 'R');
  EXPECT_GT(look.own_memory_bytes, 100'000);
  EXPECT_LT(look.own_memory_bytes, int64_t{1} << 30);
}

TEST(ProcessWatchTest, KillsForWantOfMemoryAreCountedInTheOwnControlGroup) {
  const testing::TempDir root;
  const std::string own = root.path() + "/own", vmstat = root.path() + "/vmstat";
  const auto count = [&] { return CountOutOfMemoryKills(root.path(), own, vmstat); };
  EXPECT_EQ(count(), std::nullopt);
  // Only the machine counts.
  std::ofstream(vmstat) << "pgfault 12\noom_kill 7\nthp_fault 1\n";
  EXPECT_EQ(count(), 7);
  // What others of the machine suffer is not ours.
  std::filesystem::create_directories(root.path() + "/pod/worker");
  std::ofstream(own) << "0::/pod/worker\n";
  EXPECT_EQ(count(), 7);
  std::ofstream(root.path() + "/pod/memory.events") << "oom_kill 5\n";
  EXPECT_EQ(count(), 7);
  std::ofstream(root.path() + "/pod/worker/memory.events")
      << "low 0\nhigh 3\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n";
  EXPECT_EQ(count(), 1);
  // A container sees its group as the root.
  std::ofstream(own) << "0::/\n";
  std::ofstream(root.path() + "/memory.events") << "oom_kill 4\n";
  EXPECT_EQ(count(), 4);
  EXPECT_GE(CountOutOfMemoryKills().value_or(0), 0);
}

TEST(ProcessWatchTest, NamesAStoppedTrainerAndWhereItWas) {
  SimulatedClock clock;
  const IdleChild child;
  ProcessWatch watch("rank 1 on worker w0", 0, clock);
  const auto look_for = [&](int seconds) {
    absl::Status status;
    for (int i = 0; i < 2 * seconds && status.ok(); ++i) {
      clock.AdvanceTime(absl::Milliseconds(500));
      status = watch.Look(child.pid(), /*heard=*/true, kSaid);
    }
    return status;
  };
  EXPECT_THAT(look_for(60), IsOk());
  child.Stop();
  EXPECT_THAT(look_for(2), IsOk());
  const absl::Status status = look_for(3);
  EXPECT_THAT(
      status,
      StatusIs(
          absl::StatusCode::kDeadlineExceeded,
          AllOf(HasSubstr("rank 1 on worker w0 was stopped"),
                HasSubstr("in train, step 12, after collective 345 'reduce layers.7 step 13'"))));
  EXPECT_EQ(ReasonOf(status), "UNRESPONSIVE");
}

TEST(ProcessWatchTest, SilenceCountsOnlyWhileSomebodyListens) {
  SimulatedClock clock;
  const IdleChild child;
  ProcessWatch watch("rank 0 on worker w0", 0, clock);
  clock.AdvanceTime(absl::Hours(1));  // the daemon itself stood still
  EXPECT_THAT(watch.Look(child.pid(), false, kSaid), IsOk());
  absl::Status status;
  for (int i = 0; i < 7; ++i) {
    clock.AdvanceTime(absl::Seconds(1));
    EXPECT_THAT(watch.Look(child.pid(), false, kSaid), IsOk());
  }
  clock.AdvanceTime(absl::Seconds(1));
  EXPECT_THAT(watch.Look(child.pid(), false, kSaid),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("no longer answers")));
  EXPECT_THAT(watch.Look(child.pid(), true, kSaid), IsOk());
}

TEST(ProcessWatchTest, EndsWhatTakesMoreThanItsShare) {
  SimulatedClock clock;
  ANNEAL_ASSERT_OK_AND_ASSIGN(const ProcessLook look, LookAtProcess(::getpid()));
  ProcessWatch wide("rank 0 on worker w0", 2 * look.own_memory_bytes, clock);
  EXPECT_THAT(wide.Look(::getpid(), true, kSaid), IsOk());
  ProcessWatch tight("rank 0 on worker w0", look.own_memory_bytes, clock);
  const absl::Status status = tight.Look(::getpid(), true, kSaid);
  EXPECT_THAT(status,
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("that its slot has")));
  EXPECT_EQ(ReasonOf(status), "OUT_OF_MEMORY");
}

TEST(ProcessWatchTest, SaysNothingOfAProcessThatHasEnded) {
  SimulatedClock clock;
  ProcessWatch watch("rank 0 on worker w0", 1, clock);
  EXPECT_THAT(watch.Look(1 << 30, false, kSaid), IsOk());
}

}  // namespace
}  // namespace anneal
