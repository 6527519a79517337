// Loaded trainers that wait: which tasks they serve, and that they come and go with their worker.

#include <signal.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/format/json.h"
#include "common/metrics/testing/http_get.h"
#include "gmock/gmock.h"
#include "worker/keeper/child_exec.h"
#include "worker/keeper/testing/worker_process_test_base.h"

namespace anneal {
namespace {

using ::anneal::testing::Await;
using ::anneal::testing::HasExited;
using ::anneal::testing::IsRunning;
using ::anneal::testing::Prepare;
using ::anneal::testing::ProcessesWith;
using ::anneal::testing::Rank;
using ::anneal::testing::Want;
using internal::DesiredTask;
using internal::Observed;
using internal::TaskObservation;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

class WorkerSparesTest : public testing::WorkerProcessTestBase {
 protected:
  // Processes that have begun as spares; those with a task among them.
  std::vector<pid_t> Spares() const {
    const std::string spare("\0spare\0", 7);
    std::vector<pid_t> spares = ProcessesWith(state_dir_, spare);
    // Read once more, and once only: a process may be in the middle of an exec.
    std::erase_if(spares, [&](pid_t pid) {
      const std::string command = FileOf(pid, "cmdline");
      return !absl::StrContains(command, spare) || absl::StrContains(command, kExecChildMode);
    });
    return spares;
  }
  std::vector<pid_t> AwaitSpares(size_t count) const {
    std::vector<pid_t> spares;
    EXPECT_TRUE(Await([&] { return (spares = Spares()).size() == count; })) << spares.size();
    return spares;
  }
  pid_t Run(const DesiredTask& task, const protocol::TaskKey& key) {
    coordinator_.Want({task});
    return static_cast<pid_t>(coordinator_.AwaitTask("a running task", key, IsRunning).pid());
  }
  std::string Metrics() const {
    const absl::StatusOr<std::string> text = ReadSmallFile(temp_.path() + "/addresses.json");
    if (!text.ok()) return "";
    return testing::HttpGet(ParseJson(*text).value().at("admin"), "GET /metrics");
  }
  static std::string FileOf(pid_t pid, const std::string& name) {
    return ReadSmallFile(absl::StrCat("/proc/", pid, "/", name)).value_or("");
  }
};

TEST_F(WorkerSparesTest, ATaskIsGivenToTheSpareOfItsSlotAndANewOneTakesItsPlace) {
  StartWorker();
  const std::vector<pid_t> spares = AwaitSpares(2);
  const pid_t first = Run(Want(Rank(0), "run"), Rank(0));
  EXPECT_THAT(spares, Contains(first));
  AwaitSpares(3);  // one of them trains
  EXPECT_EQ(FileOf(first, "oom_score_adj"), "500\n");
  // It writes to the task's log and holds the slot's lock, which it did not as a spare.
  const auto descriptors = [](pid_t pid) {
    std::vector<std::string> paths;
    for (const auto& entry :
         std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/fd"))) {
      std::error_code closed_meanwhile;
      paths.push_back(std::filesystem::read_symlink(entry.path(), closed_meanwhile).string());
    }
    return paths;
  };
  EXPECT_THAT(descriptors(first), Contains(HasSubstr("/logs/g1/rank0.log")));
  EXPECT_THAT(descriptors(first), Contains(HasSubstr("/slots/cpu0.lock")));
  for (pid_t spare : Spares()) {
    if (spare == first) continue;
    EXPECT_THAT(descriptors(spare), Not(Contains(HasSubstr(temp_.path()))));
  }
  // The next generation finds a spare that was there before the fault.
  const std::vector<pid_t> before = Spares();
  ::kill(first, SIGKILL);
  const TaskObservation end = coordinator_.AwaitTask("the end", Rank(0), HasExited);
  EXPECT_EQ(end.exit().message(), "killed by signal 9 (SIGKILL)");
  EXPECT_THAT(before, Contains(Run(Want(Rank(0, 2), "run"), Rank(0, 2))));
  FinishAndExpectWhole(Rank(0, 2));
}

TEST_F(WorkerSparesTest, ATaskWithAnotherEnvironmentGetsAProcessOfItsOwnAndTheNextSpareIsLikeIt) {
  StartWorker();
  const std::vector<pid_t> spares = AwaitSpares(2);
  DesiredTask wider = Want(Rank(0), "run");
  wider.set_task_json(
      absl::StrCat(wider.task_json().substr(0, wider.task_json().size() - 1), R"(,"threads":3})"));
  const pid_t pid = Run(wider, Rank(0));
  EXPECT_THAT(spares, Not(Contains(pid)));
  EXPECT_THAT(FileOf(pid, "environ"), HasSubstr(std::string("OMP_NUM_THREADS=3\0", 18)));
  ASSERT_TRUE(Await([&] {
    for (pid_t spare : Spares()) {
      if (absl::StrContains(FileOf(spare, "environ"), std::string("OMP_NUM_THREADS=3\0", 18)))
        return Spares().size() == 2;
    }
    return false;
  }));
  FinishAndExpectWhole(Rank(0));
}

TEST_F(WorkerSparesTest, ASpareThatCannotTakeItsTaskIsPassedOver) {
  StartWorker();
  // The keeper may be asked for a task before it has seen their end.
  for (pid_t spare : AwaitSpares(2)) ::kill(spare, SIGKILL);
  const pid_t pid = Run(Want(Rank(0), "run"), Rank(0));
  EXPECT_GT(pid, 0);
  FinishAndExpectWhole(Rank(0));
}

TEST_F(WorkerSparesTest, AStoppedSpareIsFoundOutWhenItGetsATask) {
  StartWorker();
  for (pid_t spare : AwaitSpares(2)) ::kill(spare, SIGSTOP);
  coordinator_.Want({Want(Rank(0), "run")});
  const TaskObservation end = coordinator_.AwaitTask("the end", Rank(0), HasExited);
  EXPECT_EQ(end.exit().reason(), "UNRESPONSIVE");
  EXPECT_THAT(end.exit().message(), HasSubstr("stopped by a signal"));
}

TEST_F(WorkerSparesTest, PreparingTakesNoSpare) {
  StartWorker();
  const std::vector<pid_t> spares = AwaitSpares(2);
  EXPECT_THAT(spares, Not(Contains(Run(Want(Prepare(), "run"), Prepare()))));
  EXPECT_EQ(AwaitSpares(2), spares);
}

TEST_F(WorkerSparesTest, ANewDaemonGetsNewSparesAndTheirNumberIsAMetric) {
  StartWorker();
  const std::vector<pid_t> old = AwaitSpares(2);
  const int64_t first = AwaitIncarnationAfter(0);
  ::kill(DaemonPid(), SIGKILL);
  AwaitIncarnationAfter(first);
  std::vector<pid_t> spares;
  ASSERT_TRUE(Await([&] {
    spares = Spares();
    return spares.size() == 2 && spares[0] != old[0] && spares[0] != old[1] &&
           spares[1] != old[0] && spares[1] != old[1];
  }));
  ASSERT_TRUE(Await([&] { return absl::StrContains(Metrics(), "anneal_worker_spares 2"); }));
}

TEST_F(WorkerSparesTest, AFlagTurnsThemOff) {
  StartWorker({{"--spares", "false"}});
  const pid_t pid = Run(Want(Rank(0), "run"), Rank(0));
  EXPECT_GT(pid, 0);
  EXPECT_TRUE(Spares().empty());
  FinishAndExpectWhole(Rank(0));
  EXPECT_TRUE(Spares().empty());
}

}  // namespace
}  // namespace anneal
