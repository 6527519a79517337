// What a worker survives and how it leaves: daemons that die, coordinators that are away or
// outdated, draining, signals.

#include <signal.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/file.h"
#include "common/base/status_matchers.h"
#include "common/protocol/run_folder_layout.h"
#include "worker/keeper/testing/worker_process_test_base.h"
#include "worker/supervisor/run_folder.h"

namespace anneal {
namespace {

using ::anneal::testing::Await;
using ::anneal::testing::ExpectWhole;
using ::anneal::testing::HasExited;
using ::anneal::testing::IsRunning;
using ::anneal::testing::Rank;
using ::anneal::testing::Want;
using internal::DesiredTask;
using internal::Observed;
using internal::TaskObservation;

using WorkerRestartTest = testing::WorkerProcessTestBase;

TEST_F(WorkerRestartTest, ADeadDaemonStopsNothingAndLosesNothing) {
  StartWorker();
  coordinator_.Want({Want(Rank(0), "join")});
  const TaskObservation before = coordinator_.AwaitTask(
      "a rendezvous", Rank(0), [](const TaskObservation& t) { return !t.rendezvous().empty(); });
  size_t reports = coordinator_.AwaitReports(Rank(0), 20).size();
  int64_t incarnation = AwaitIncarnationAfter(0);
  for (int round = 1; round <= 3; ++round) {
    const pid_t daemon = DaemonPid();
    ASSERT_GT(daemon, 0);
    if (round == 2) {
      ::kill(keeper_, SIGHUP);
    } else {
      ::kill(daemon, SIGKILL);
    }
    const Observed first = coordinator_.AwaitObserved(
        "a new daemon", [&](const Observed& o) { return o.worker_incarnation() > incarnation; });
    incarnation = first.worker_incarnation();
    // A new daemon speaks when it knows, so nothing seems to be taken back.
    ASSERT_EQ(first.tasks_size(), 1);
    EXPECT_EQ(first.tasks(0).state(), TaskObservation::STATE_RUNNING);
    EXPECT_EQ(first.tasks(0).rendezvous(), before.rendezvous());
    reports = coordinator_.AwaitReports(Rank(0), reports + 20).size();
  }
  const TaskObservation after = coordinator_.AwaitTask("the same task", Rank(0), IsRunning);
  EXPECT_EQ(after.pid(), before.pid());
  FinishAndExpectWhole(Rank(0));
}

TEST_F(WorkerRestartTest, AnEndThatNoDaemonSawIsStillTold) {
  StartWorker();
  coordinator_.Want({Want(Rank(0), "run")});
  const TaskObservation task = coordinator_.AwaitTask("a running task", Rank(0), IsRunning);
  // The daemon is frozen, so that it cannot see the end, and then killed.
  const pid_t daemon = DaemonPid();
  ::kill(daemon, SIGSTOP);
  ::kill(static_cast<pid_t>(task.pid()), SIGTERM);
  ASSERT_TRUE(Await([&] { return std::filesystem::exists(RunFolderOf(Rank(0)) + "/end.json"); }));
  ::kill(daemon, SIGKILL);
  const TaskObservation end = coordinator_.AwaitTask("the end", Rank(0), HasExited);
  EXPECT_EQ(end.exit().message(), "killed by signal 15 (SIGTERM)");
}

TEST_F(WorkerRestartTest, TrainingGoesOnWithoutACoordinator) {
  StartWorker();
  coordinator_.Want({Want(Rank(0), "run")});
  const TaskObservation before = coordinator_.AwaitTask("a running task", Rank(0), IsRunning);
  const size_t reports = coordinator_.AwaitReports(Rank(0), 10).size();
  coordinator_.Stop();
  const std::string file = state_dir_ + "/runs/" + TaskName(Rank(0)) + "/" + protocol::kReportsName;
  const auto size = std::filesystem::file_size(file);
  ASSERT_TRUE(Await([&] { return std::filesystem::file_size(file) > size + 20'000; }));
  coordinator_.Start();
  coordinator_.AwaitReports(Rank(0), reports + 400);
  EXPECT_EQ(coordinator_.AwaitTask("the same task", Rank(0), IsRunning).pid(), before.pid());
  FinishAndExpectWhole(Rank(0));
}

TEST_F(WorkerRestartTest, ManyUnacknowledgedReportsWaitOnDiskAndTheEndWaitsForThem) {
  StartWorker();
  coordinator_.SetAcknowledging(false);
  coordinator_.Want({Want(Rank(0), "run")});
  coordinator_.AwaitReports(Rank(0), 256);  // a full window
  const std::string folder = state_dir_ + "/runs/" + TaskName(Rank(0));
  ASSERT_TRUE(Await(
      [&] { return std::filesystem::file_size(folder + "/" + protocol::kReportsName) > 50'000; }));
  DesiredTask finish = Want(Rank(0), "run");
  finish.set_action(DesiredTask::ACTION_FINISH);
  coordinator_.Want({finish});
  ASSERT_TRUE(Await([&] { return std::filesystem::exists(folder + "/end.json"); }));
  EXPECT_EQ(coordinator_.Reports(Rank(0)).size(), 256u);
  coordinator_.SetAcknowledging(true);
  coordinator_.AwaitTask("the end", Rank(0), HasExited);
  ExpectWhole(coordinator_.Reports(Rank(0)));
}

TEST_F(WorkerRestartTest, OrdersOfAnOutdatedCoordinatorAreRefusedAlsoByANewDaemon) {
  StartWorker();
  coordinator_.SetEpoch(7);
  coordinator_.Want({Want(Rank(0), "run")});
  const TaskObservation task = coordinator_.AwaitTask("a running task", Rank(0), IsRunning);
  coordinator_.AwaitObserved("epoch 7",
                             [](const Observed& o) { return o.coordinator_epoch() == 7; });
  const int64_t first = AwaitIncarnationAfter(0);
  ::kill(DaemonPid(), SIGKILL);
  coordinator_.SetEpoch(6);
  coordinator_.Want({});
  AwaitIncarnationAfter(first);
  // The outdated one wants no tasks; it is heard again and again and not obeyed.
  coordinator_.AwaitMoreStreams(3);
  EXPECT_EQ(coordinator_.AwaitTask("the task", Rank(0), IsRunning).pid(), task.pid());
  coordinator_.Want({Want(Rank(0), "run")});  // first: what epoch 8 says is obeyed at once
  coordinator_.SetEpoch(8);
  coordinator_.AwaitObserved("epoch 8",
                             [](const Observed& o) { return o.coordinator_epoch() == 8; });
  EXPECT_EQ(coordinator_.AwaitTask("the same task", Rank(0), IsRunning).pid(), task.pid());
  FinishAndExpectWhole(Rank(0));
}

TEST_F(WorkerRestartTest, DrainingPausesTrainers) {
  StartWorker();
  coordinator_.Want({Want(Rank(0), "run")});
  coordinator_.AwaitTask("a running task", Rank(0), IsRunning);
  ::kill(keeper_, SIGTERM);
  const TaskObservation end = coordinator_.AwaitTask("the end", Rank(0), HasExited);
  EXPECT_EQ(end.exit().reason(), "PAUSED");
  EXPECT_EQ(end.exit().status_code(), 0);
  coordinator_.Want({});
  EXPECT_EQ(AwaitKeeper(), 0);
}

TEST_F(WorkerRestartTest, DrainingWaitsForTasksAndThenLeaves) {
  StartWorker();
  coordinator_.Want({Want(Rank(0), "busy", "cpu0")});
  coordinator_.AwaitTask("a running task", Rank(0), IsRunning);
  ::kill(keeper_, SIGTERM);
  coordinator_.AwaitObserved("draining", [](const Observed& o) { return o.draining(); });
  coordinator_.Want({Want(Rank(0), "busy", "cpu0"), Want(Rank(1), "run", "cpu1")});
  const TaskObservation late = coordinator_.AwaitTask(
      "a late task", Rank(1),
      [](const TaskObservation& t) { return t.state() == TaskObservation::STATE_REFUSED; });
  EXPECT_EQ(late.exit().reason(), "DRAINING");
  // A daemon that dies meanwhile does not end the draining.
  const int64_t first = AwaitIncarnationAfter(0);
  ::kill(DaemonPid(), SIGKILL);
  coordinator_.AwaitObserved("draining again", [first](const Observed& o) {
    return o.worker_incarnation() > first && o.draining();
  });
  FinishAndExpectWhole(Rank(0));
  coordinator_.Want({});
  EXPECT_EQ(AwaitKeeper(), 0);
}

TEST_F(WorkerRestartTest, AnIdleWorkerLeavesAndABusyOneStays) {
  coordinator_.Want({Want(Rank(0), "run")});
  // Long enough for a coordinator that is there to be heard on a busy machine.
  StartWorker({{"--exit-when-idle", "3s"}});
  coordinator_.AwaitTask("a running task", Rank(0), IsRunning);
  // Heartbeats come every 2 s.
  const absl::Time busy_until = absl::Now() + absl::Seconds(3);
  const Observed busy = coordinator_.AwaitObserved(
      "a later word", [&](const Observed&) { return absl::Now() > busy_until; });
  EXPECT_FALSE(busy.draining());
  FinishAndExpectWhole(Rank(0));
  coordinator_.Want({});
  coordinator_.AwaitObserved("leaving", [](const Observed& o) { return o.draining(); });
  EXPECT_EQ(AwaitKeeper(), 0);
}

TEST_F(WorkerRestartTest, AnIdleWorkerStaysWhileItIsWanted) {
  coordinator_.SetWanted(true);
  StartWorker({{"--exit-when-idle", "3s"}});
  coordinator_.AwaitObserved("registration", [](const Observed& o) { return !o.worker().empty(); });
  const absl::Time idle_until = absl::Now() + absl::Seconds(4);
  const Observed idle = coordinator_.AwaitObserved(
      "a later word", [&](const Observed&) { return absl::Now() > idle_until; });
  EXPECT_FALSE(idle.draining());
  coordinator_.SetWanted(false);
  EXPECT_EQ(AwaitKeeper(), 0);
}

TEST_F(WorkerRestartTest, AnIdleWorkerWithoutACoordinatorLeaves) {
  coordinator_.Stop();
  StartWorker({{"--exit-when-idle", "100ms"}});
  EXPECT_EQ(AwaitKeeper(), 0);
  // What the last one said holds nobody when it is gone.
  coordinator_.SetWanted(true);
  coordinator_.Start();
  StartWorker({{"--exit-when-idle", "3s"}});
  coordinator_.AwaitObserved("registration", [](const Observed& o) { return !o.worker().empty(); });
  coordinator_.Stop();
  EXPECT_EQ(AwaitKeeper(), 0);
}

TEST_F(WorkerRestartTest, DrainingStopsTasksAfterItsTimeAndTellsHowTheyEnded) {
  StartWorker({{"--drain-timeout", "100ms"}});
  coordinator_.Want({Want(Rank(0), "busy")});
  coordinator_.AwaitTask("a running task", Rank(0), IsRunning);
  ::kill(keeper_, SIGTERM);
  EXPECT_EQ(coordinator_.AwaitTask("the end", Rank(0), HasExited).exit().reason(), "STOPPED");
  coordinator_.Want({});
  EXPECT_EQ(AwaitKeeper(), 0);
}

TEST_F(WorkerRestartTest, DrainingWaitsForACoordinatorThatIsAway) {
  StartWorker({{"--drain-timeout", "5m"}});
  coordinator_.Want({Want(Rank(0), "run")});
  coordinator_.AwaitTask("a running task", Rank(0), IsRunning);
  const size_t reports = coordinator_.AwaitReports(Rank(0), 10).size();
  coordinator_.Stop();
  ::kill(keeper_, SIGTERM);
  ASSERT_TRUE(Await([&] { return std::filesystem::exists(RunFolderOf(Rank(0)) + "/end.json"); }));
  // The last reports, among them checkpoints, are the coordinator's when it comes back.
  coordinator_.Start();
  const TaskObservation end = coordinator_.AwaitTask("the end", Rank(0), HasExited);
  EXPECT_EQ(end.exit().reason(), "PAUSED");
  EXPECT_GT(coordinator_.Reports(Rank(0)).size(), reports);
  coordinator_.Want({});
  EXPECT_EQ(AwaitKeeper(), 0);
}

TEST_F(WorkerRestartTest, DrainingEndsAtItsTimeoutWithoutACoordinator) {
  StartWorker({{"--drain-timeout", "1s"}});
  coordinator_.Want({Want(Rank(0), "run")});
  coordinator_.AwaitTask("a running task", Rank(0), IsRunning);
  coordinator_.Stop();
  ::kill(keeper_, SIGTERM);
  EXPECT_EQ(AwaitKeeper(), 0);
  // Nothing is lost that the disk outlives: the next worker tells it.
  EXPECT_TRUE(std::filesystem::exists(RunFolderOf(Rank(0)) + "/end.json"));
  coordinator_.Start();
  StartWorker();
  coordinator_.AwaitTask("the end", Rank(0), HasExited);
}

TEST_F(WorkerRestartTest, InterruptStopsEverythingNow) {
  StartWorker();
  coordinator_.Want({Want(Rank(0), "stubborn", "cpu0"), Want(Rank(1), "run", "cpu1")});
  coordinator_.AwaitTask("the stubborn", Rank(0), IsRunning);
  coordinator_.AwaitTask("the other", Rank(1), IsRunning);
  ::kill(keeper_, SIGINT);
  EXPECT_EQ(AwaitKeeper(), 0);
  EXPECT_TRUE(OurProcesses().empty());
}

TEST_F(WorkerRestartTest, WithTheKeeperEverythingDiesAndTheNextWorkerTellsIt) {
  StartWorker();
  coordinator_.Want({Want(Rank(0), "stubborn")});
  coordinator_.AwaitTask("a running task", Rank(0), IsRunning);
  ::kill(keeper_, SIGKILL);
  EXPECT_EQ(AwaitKeeper(), -1);
  ASSERT_TRUE(Await([&] { return OurProcesses().empty(); }));
  StartWorker();
  const TaskObservation task = coordinator_.AwaitTask("the end", Rank(0), HasExited);
  EXPECT_EQ(task.exit().reason(), "WORKER_RESTARTED");
  EXPECT_EQ(task.exit().message(), "ended together with its worker");
}

TEST_F(WorkerRestartTest, TasksWithoutACoordinatorEndAtTheOrphanTimeout) {
  // Long enough for a coordinator that is there to be heard on a busy machine.
  StartWorker({{"--orphan-timeout", "4s"}});
  coordinator_.Want({Want(Rank(0), "run")});
  const TaskObservation task = coordinator_.AwaitTask("a running task", Rank(0), IsRunning);
  coordinator_.Stop();
  EXPECT_TRUE(Await([&] { return !IdentifyProcess(task.pid()).ok(); }));
  coordinator_.Start();
  EXPECT_EQ(coordinator_.AwaitTask("the end", Rank(0), HasExited).exit().reason(), "STOPPED");
}

TEST_F(WorkerRestartTest, IncarnationsGrowWithAndWithoutMemory) {
  StartWorker();
  const int64_t first = AwaitIncarnationAfter(0);
  ::kill(DaemonPid(), SIGKILL);
  const int64_t second = AwaitIncarnationAfter(first);
  // A pod in the place of another has its name and an empty folder.
  ::kill(keeper_, SIGINT);
  EXPECT_EQ(AwaitKeeper(), 0);
  std::filesystem::remove_all(state_dir_);
  StartWorker();
  AwaitIncarnationAfter(second);
  // One that has lived in the future, by its clock, does not go back.
  ::kill(keeper_, SIGINT);
  EXPECT_EQ(AwaitKeeper(), 0);
  const int64_t future = absl::ToUnixMicros(absl::Now() + absl::Hours(1));
  ANNEAL_ASSERT_OK(WriteFileAtomically(
      state_dir_ + "/worker.json",
      absl::StrCat("{\"incarnation\": ", future, ", \"coordinator_epoch\": 1}\n")));
  StartWorker();
  EXPECT_EQ(AwaitIncarnationAfter(future), future + 1);
}

TEST_F(WorkerRestartTest, AReloadStartsTheProgramThatTheLinkNamesNow) {
  const std::string versions = temp_.path() + "/versions";
  const auto install = [&](const std::string& version) {
    std::filesystem::create_directories(versions + "/" + version);
    std::filesystem::copy_file(own_dir_ + "/anneal-worker",
                               versions + "/" + version + "/anneal-worker");
  };
  const auto point_at = [&](const std::string& version) {
    std::filesystem::create_directory_symlink(version, versions + "/next");
    std::filesystem::rename(versions + "/next", versions + "/current");
  };
  const auto program_of = [](pid_t pid) {
    return std::filesystem::read_symlink("/proc/" + std::to_string(pid) + "/exe").string();
  };
  install("1");
  install("2");
  point_at("1");
  program_ = versions + "/current/anneal-worker";
  StartWorker();
  coordinator_.Want({Want(Rank(0), "run")});
  const TaskObservation before = coordinator_.AwaitTask("a running task", Rank(0), IsRunning);
  const int64_t first = AwaitIncarnationAfter(0);
  EXPECT_EQ(program_of(DaemonPid()), versions + "/1/anneal-worker");
  point_at("2");
  ::kill(keeper_, SIGHUP);
  AwaitIncarnationAfter(first);
  EXPECT_EQ(program_of(DaemonPid()), versions + "/2/anneal-worker");
  EXPECT_EQ(coordinator_.AwaitTask("the same task", Rank(0), IsRunning).pid(), before.pid());
}

TEST_F(WorkerRestartTest, OneStateFolderServesOneWorker) {
  StartWorker();
  coordinator_.AwaitObserved("registration", [](const Observed& o) { return !o.worker().empty(); });
  const pid_t first = keeper_;
  StartWorker();
  EXPECT_EQ(AwaitKeeper(), 1);
  keeper_ = first;
}

TEST_F(WorkerRestartTest, ABadConfigurationEndsTheWorkerInsteadOfRepeatingIt) {
  StartWorker({{"--data-address", "localhost"}});
  EXPECT_EQ(AwaitKeeper(), 78);
  StartWorker({{"--admin-listen", "nonsense"}});
  EXPECT_EQ(AwaitKeeper(), 78);
}

}  // namespace
}  // namespace anneal
