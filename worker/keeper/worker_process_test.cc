// The worker as it is deployed: real keeper, real daemon, child processes that speak the protocol, a coordinator over real gRPC.

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "common/format/json.h"
#include "common/metrics/testing/http_get.h"
#include "common/protocol/messages.h"
#include "worker/daemon/launch.h"
#include "worker/daemon/testing/fake_coordinator.h"
#include "worker/keeper/spawn.h"
#include "worker/supervisor/run_folder.h"

namespace anneal {
namespace {

using internal::DesiredTask;
using internal::Observed;
using internal::TaskObservation;
using protocol::TaskKey;
using protocol::TaskKind;
using ::testing::HasSubstr;

constexpr char kJob[] = "01hf7yat00abcdefghjkmnpqrs";
constexpr absl::Duration kPatience = absl::Seconds(30);

TaskKey Rank(int rank, int64_t generation = 1) { return {.job = kJob, .generation = generation, .rank = rank}; }
TaskKey Prepare() { return {.job = kJob, .generation = 1, .kind = TaskKind::kPrepare}; }

// A wish for a task whose child behaves as `mode` says (worker/daemon/testing/fake_child.cc).
DesiredTask Want(const TaskKey& key, const std::string& mode, const std::string& slot = "cpu0") {
  DesiredTask task;
  *task.mutable_id() = TaskKeyToProto(key);
  task.set_action(DesiredTask::ACTION_RUN);
  if (key.kind == TaskKind::kTrain) task.add_slot_ids(slot);
  task.set_task_json(DumpJson({{"job", key.job}, {"generation", key.generation}, {"rank", key.rank}, {"model_dir", mode}}));
  if (key.kind == TaskKind::kPrepare) {
    task.set_task_json(DumpJson({{"job", key.job}, {"generation", key.generation}, {"model_dir", mode}}));
  }
  return task;
}

bool IsRunning(const TaskObservation& task) { return task.state() == TaskObservation::STATE_RUNNING && task.pid() > 0; }
bool HasExited(const TaskObservation& task) { return task.state() == TaskObservation::STATE_EXITED; }

// Polls a fact of the operating system, which nothing announces.
template <typename Condition>
bool Await(Condition condition) {
  const absl::Duration end = Clock::Real().MonotonicNow() + kPatience;
  while (!condition()) {
    if (Clock::Real().MonotonicNow() > end) return false;
    Clock::Real().Sleep(absl::Milliseconds(5));
  }
  return true;
}

class WorkerProcessTest : public ::testing::Test {
 protected:
  WorkerProcessTest() : bin_dir_(temp_.path() + "/bin"), state_dir_(temp_.path() + "/state") {
    own_dir_ = std::filesystem::read_symlink("/proc/self/exe").parent_path().string();
    std::filesystem::create_directory(bin_dir_);
    for (const char* name : {"anneal-trainer", "anneal-prepare"}) {
      std::filesystem::create_symlink(own_dir_ + "/worker_fake_child", bin_dir_ + "/" + name);
    }
  }
  ~WorkerProcessTest() override {
    if (keeper_ > 0) {
      ::kill(keeper_, SIGINT);
      AwaitKeeper();
    }
    EXPECT_TRUE(Await([&] { return OurProcesses().empty(); })) << "processes stayed behind";
  }

  using FlagMap = std::map<std::string, std::string>;
  // `flags` replace or add to the usual ones.
  void StartWorker(FlagMap flags = {}) {
    flags.merge(FlagMap{{"--coordinator", coordinator_.address()},
                        {"--name", "w1"},
                        {"--state-dir", state_dir_},
                        {"--storage-root", temp_.path() + "/storage"},
                        {"--bin-dir", bin_dir_},
                        {"--cpu-slots", "2"},
                        {"--threads-per-slot", "1"},
                        {"--data-address", "127.0.0.1"},
                        {"--admin-listen", "127.0.0.1:0"},
                        {"--address-file", temp_.path() + "/addresses.json"},
                        {"--nvml-library", temp_.path() + "/none.so"},
                        {"--stop-grace", "200ms"}});
    SpawnOptions spawn{.program = own_dir_ + "/anneal-worker", .environment = ReadEnvironment()};
    spawn.arguments = {spawn.program};
    for (const auto& [flag, value] : flags) spawn.arguments.insert(spawn.arguments.end(), {flag, value});
    ANNEAL_ASSERT_OK_AND_ASSIGN(keeper_, Spawn(spawn));
  }
  // The keeper's exit status, or -1 after a signal.
  int AwaitKeeper() {
    int wait_status = 0;
    ::waitpid(std::exchange(keeper_, 0), &wait_status, 0);
    return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : -1;
  }

  // All processes that carry this test's folder in their command line.
  std::vector<pid_t> OurProcesses() const { return ProcessesWith(temp_.path(), ""); }
  pid_t DaemonPid() const {
    std::vector<pid_t> pids;
    Await([&] {
      pids = ProcessesWith(state_dir_, std::string("daemon") + '\0');
      return pids.size() == 1;
    });
    return pids.size() == 1 ? pids[0] : 0;
  }
  static std::vector<pid_t> ProcessesWith(const std::string& text, const std::string& other) {
    std::vector<pid_t> pids;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string name = entry.path().filename();
      if (name.find_first_not_of("0123456789") != std::string::npos || std::stoi(name) == ::getpid()) continue;
      const absl::StatusOr<std::string> line = ReadSmallFile(entry.path().string() + "/cmdline");
      if (line.ok() && absl::StrContains(*line, text) && absl::StrContains(*line, other)) pids.push_back(std::stoi(name));
    }
    return pids;
  }
  bool IsForgotten(const TaskKey& key) const {
    return !std::filesystem::exists(state_dir_ + "/runs/" + TaskName(key));
  }
  void AwaitNoTasks() {
    coordinator_.AwaitObserved("no tasks", [](const Observed& o) { return !o.worker().empty() && o.tasks().empty(); });
  }
  // Every report of a child that ran until FINISH: steps 1, 2, ..., n, then the result, which names n.
  static void ExpectWhole(const std::vector<std::string>& reports) {
    ASSERT_GE(reports.size(), 2u);
    for (size_t i = 0; i + 1 < reports.size(); ++i) {
      const absl::StatusOr<protocol::Report> report = protocol::ReportFromJson(*ParseJson(reports[i]));
      ASSERT_TRUE(report.ok() && report->step.has_value()) << reports[i];
      ASSERT_EQ(report->step->step, static_cast<int64_t>(i) + 1);
    }
    const absl::StatusOr<protocol::Report> last = protocol::ReportFromJson(*ParseJson(reports.back()));
    ASSERT_TRUE(last.ok() && last->result.has_value()) << reports.back();
    EXPECT_EQ(last->result->last_loss, static_cast<double>(reports.size() - 1));
  }
  void FinishAndExpectWhole(const TaskKey& key) {
    DesiredTask finish = Want(key, "run");
    finish.set_action(DesiredTask::ACTION_FINISH);
    coordinator_.Want({finish});
    const TaskObservation task = coordinator_.AwaitTask("the end", key, HasExited);
    EXPECT_EQ(task.exit().exit_code(), 0);
    EXPECT_EQ(task.exit().status_code(), 0);
    EXPECT_EQ(task.exit().message(), "done");
    ExpectWhole(coordinator_.Reports(key));
  }

  const testing::TempDir temp_;
  const std::string bin_dir_;
  const std::string state_dir_;
  std::string own_dir_;
  testing::FakeCoordinator coordinator_;
  pid_t keeper_ = 0;
};

TEST_F(WorkerProcessTest, RegistersRunsATaskAndForgetsIt) {
  StartWorker();
  const Observed idle = coordinator_.AwaitObserved("registration", [](const Observed& o) { return o.slots_size() == 2; });
  EXPECT_EQ(idle.worker(), "w1");
  EXPECT_EQ(idle.worker_incarnation(), 1);
  EXPECT_EQ(idle.slots(0).id(), "cpu0");
  EXPECT_EQ(idle.slots(0).threads(), 1);
  EXPECT_EQ(idle.data_address(), "127.0.0.1");
  EXPECT_FALSE(idle.draining());

  coordinator_.Want({Want(Rank(0), "succeed"), Want(Prepare(), "succeed")});
  for (const TaskKey& key : {Rank(0), Prepare()}) {
    const TaskObservation task = coordinator_.AwaitTask("the end", key, HasExited);
    EXPECT_EQ(task.exit().exit_code(), 0);
    EXPECT_EQ(task.exit().message(), "done");
    const std::vector<std::string> reports = coordinator_.AwaitReports(key, 11);
    EXPECT_EQ(reports.size(), 11u);
    ExpectWhole(reports);
  }
  EXPECT_FALSE(IsForgotten(Rank(0)));
  coordinator_.Want({});
  AwaitNoTasks();
  EXPECT_TRUE(IsForgotten(Rank(0)));
  EXPECT_TRUE(IsForgotten(Prepare()));
}

TEST_F(WorkerProcessTest, EndsAreToldWithTheirCauseAndTheLogsEnd) {
  StartWorker();
  coordinator_.Want({Want(Rank(0), "crash", "cpu0"), Want(Rank(1), "abort", "cpu1")});
  const TaskObservation crashed = coordinator_.AwaitTask("a crash", Rank(0), HasExited);
  EXPECT_EQ(crashed.exit().exit_code(), 3);
  EXPECT_EQ(crashed.exit().message(), "exited with status 3 without saying why");
  EXPECT_THAT(crashed.exit().log_tail(), HasSubstr("about to crash"));
  const TaskObservation killed = coordinator_.AwaitTask("a kill", Rank(1), HasExited);
  EXPECT_EQ(killed.exit().signal(), SIGKILL);
  EXPECT_EQ(killed.exit().message(), "killed by signal 9 (SIGKILL)");

  coordinator_.Want({Want(Rank(0, 2), "fail")});
  const TaskObservation failed = coordinator_.AwaitTask("a failure", Rank(0, 2), HasExited);
  EXPECT_EQ(failed.exit().exit_code(), 1);
  EXPECT_EQ(failed.exit().status_code(), 8);
  EXPECT_EQ(failed.exit().reason(), "OUT_OF_MEMORY");
  EXPECT_EQ(failed.exit().message(), "no room");
}

TEST_F(WorkerProcessTest, AProgramThatIsMissingIsSaid) {
  std::filesystem::remove(bin_dir_ + "/anneal-trainer");
  StartWorker();
  coordinator_.Want({Want(Rank(0), "succeed")});
  const TaskObservation task = coordinator_.AwaitTask("the end", Rank(0), HasExited);
  EXPECT_EQ(task.exit().reason(), "START_FAILED");
  EXPECT_THAT(task.exit().message(), HasSubstr("cannot start"));
  EXPECT_THAT(task.exit().message(), HasSubstr("anneal-trainer"));
}

TEST_F(WorkerProcessTest, RanksFindEachOtherThroughTheCoordinator) {
  StartWorker();
  std::vector<DesiredTask> tasks = {Want(Rank(0), "join", "cpu0"), Want(Rank(1), "join", "cpu1")};
  coordinator_.Want(tasks);
  const TaskObservation first =
      coordinator_.AwaitTask("a rendezvous", Rank(0), [](const TaskObservation& t) { return !t.rendezvous().empty(); });
  EXPECT_EQ(first.rendezvous(), "127.0.0.1:4242");
  for (DesiredTask& task : tasks) task.set_rendezvous(first.rendezvous());
  coordinator_.Want(tasks);
  EXPECT_THAT(coordinator_.AwaitReports(Rank(1), 1)[0], HasSubstr("127.0.0.1:4242"));
}

TEST_F(WorkerProcessTest, ADeadDaemonStopsNothingAndLosesNothing) {
  StartWorker();
  coordinator_.Want({Want(Rank(0), "join")});
  const TaskObservation before =
      coordinator_.AwaitTask("a rendezvous", Rank(0), [](const TaskObservation& t) { return !t.rendezvous().empty(); });
  size_t reports = coordinator_.AwaitReports(Rank(0), 20).size();
  for (int round = 1; round <= 3; ++round) {
    const pid_t daemon = DaemonPid();
    ASSERT_GT(daemon, 0);
    if (round == 2) {
      ::kill(keeper_, SIGHUP);
    } else {
      ::kill(daemon, SIGKILL);
    }
    const Observed first =
        coordinator_.AwaitObserved("a new daemon", [&](const Observed& o) { return o.worker_incarnation() == round + 1; });
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

TEST_F(WorkerProcessTest, AnEndThatNoDaemonSawIsStillTold) {
  StartWorker();
  coordinator_.Want({Want(Rank(0), "run")});
  const TaskObservation task = coordinator_.AwaitTask("a running task", Rank(0), IsRunning);
  // The daemon is frozen, so that it cannot see the end, and then killed.
  const pid_t daemon = DaemonPid();
  ::kill(daemon, SIGSTOP);
  ::kill(static_cast<pid_t>(task.pid()), SIGTERM);
  ASSERT_TRUE(Await([&] { return std::filesystem::exists(state_dir_ + "/runs/" + TaskName(Rank(0)) + "/end.json"); }));
  ::kill(daemon, SIGKILL);
  const TaskObservation end = coordinator_.AwaitTask("the end", Rank(0), HasExited);
  EXPECT_EQ(end.exit().message(), "killed by signal 15 (SIGTERM)");
}

TEST_F(WorkerProcessTest, TrainingGoesOnWithoutACoordinator) {
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

TEST_F(WorkerProcessTest, ManyUnacknowledgedReportsWaitOnDiskAndTheEndWaitsForThem) {
  StartWorker();
  coordinator_.SetAcknowledging(false);
  coordinator_.Want({Want(Rank(0), "run")});
  coordinator_.AwaitReports(Rank(0), 256);  // a full window
  const std::string folder = state_dir_ + "/runs/" + TaskName(Rank(0));
  ASSERT_TRUE(Await([&] { return std::filesystem::file_size(folder + "/" + protocol::kReportsName) > 50'000; }));
  DesiredTask finish = Want(Rank(0), "run");
  finish.set_action(DesiredTask::ACTION_FINISH);
  coordinator_.Want({finish});
  ASSERT_TRUE(Await([&] { return std::filesystem::exists(folder + "/end.json"); }));
  EXPECT_EQ(coordinator_.Reports(Rank(0)).size(), 256u);
  coordinator_.SetAcknowledging(true);
  coordinator_.AwaitTask("the end", Rank(0), HasExited);
  ExpectWhole(coordinator_.Reports(Rank(0)));
}

TEST_F(WorkerProcessTest, WhatIsNotWantedIsAskedThenTerminatedThenKilled) {
  StartWorker();
  coordinator_.Want({Want(Rank(0), "run", "cpu0"), Want(Rank(1), "stubborn", "cpu1")});
  coordinator_.AwaitTask("the polite", Rank(0), IsRunning);
  coordinator_.AwaitTask("the stubborn", Rank(1), IsRunning);
  coordinator_.AwaitReports(Rank(1), 1);
  coordinator_.Want({});
  AwaitNoTasks();
  EXPECT_TRUE(IsForgotten(Rank(0)));
  EXPECT_TRUE(IsForgotten(Rank(1)));
  EXPECT_TRUE(ProcessesWith(state_dir_, "anneal-trainer").empty());
}

TEST_F(WorkerProcessTest, ASlotIsNeverLentTwice) {
  StartWorker();
  coordinator_.Want({Want(Rank(0), "stubborn")});
  coordinator_.AwaitTask("the first", Rank(0), IsRunning);
  coordinator_.AwaitReports(Rank(0), 1);
  // The next generation wants the slot at once; it starts only when the process before has been killed.
  coordinator_.Want({Want(Rank(0, 2), "run")});
  coordinator_.AwaitObserved("the second", [](const Observed& observed) {
    const auto running = std::count_if(observed.tasks().begin(), observed.tasks().end(),
                                       [](const TaskObservation& task) { return task.pid() > 0 && !HasExited(task); });
    EXPECT_LE(running, 1);
    return observed.tasks_size() == 1 && observed.tasks(0).id().generation() == 2 && IsRunning(observed.tasks(0));
  });
  EXPECT_TRUE(ProcessesWith(TaskName(Rank(0)) + "/", "anneal-trainer").empty());
}

TEST_F(WorkerProcessTest, ASlotThatSomebodyElseHoldsIsSaid) {
  std::filesystem::create_directories(state_dir_ + "/slots");
  const std::string path = state_dir_ + "/slots/cpu0.lock";
  UniqueFd lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(::flock(lock.get(), LOCK_EX | LOCK_NB), 0);
  StartWorker();
  coordinator_.Want({Want(Rank(0), "succeed", "cpu0"), Want(Rank(1), "succeed", "cpu1")});
  const TaskObservation busy = coordinator_.AwaitTask("the end", Rank(0), HasExited);
  EXPECT_EQ(busy.exit().reason(), "SLOT_BUSY");
  EXPECT_EQ(busy.exit().status_code(), static_cast<int>(absl::StatusCode::kUnavailable));
  EXPECT_EQ(coordinator_.AwaitTask("the other", Rank(1), HasExited).exit().exit_code(), 0);
}

TEST_F(WorkerProcessTest, OperatorsSeeTheWorkerAndItsRanks) {
  StartWorker();
  coordinator_.AwaitObserved("registration", [](const Observed& o) { return !o.worker().empty(); });
  coordinator_.Want({Want(Rank(0), "run")});
  coordinator_.AwaitReports(Rank(0), 10);
  ANNEAL_ASSERT_OK_AND_ASSIGN(Json addresses, ReadJsonFile(temp_.path() + "/addresses.json"));
  const std::string admin = addresses["admin"].get<std::string>();
  std::string scrape;
  EXPECT_TRUE(Await([&] {
    scrape = testing::HttpGet(admin, "GET /metrics");
    return absl::StrContains(scrape, "anneal_rank_tokens_total{job_id=\"01hf7yat00abcdefghjkmnpqrs\",rank=\"0\"}");
  })) << scrape;
  EXPECT_THAT(scrape, HasSubstr("phase=\"forward\""));
  EXPECT_THAT(scrape, HasSubstr("anneal_worker_slots{use=\"busy\"} 1"));
  EXPECT_THAT(testing::HttpGet(admin, "GET /readyz"), HasSubstr("200 OK"));
  EXPECT_THAT(testing::HttpGet(admin, "GET /livez"), HasSubstr("200 OK"));
  coordinator_.Stop();
  EXPECT_TRUE(Await([&] { return absl::StrContains(testing::HttpGet(admin, "GET /readyz"), "503"); }));
}

TEST_F(WorkerProcessTest, WhatIsOutdatedOrWrongIsRefused) {
  StartWorker();
  const auto refused = [](const TaskObservation& task) { return task.state() == TaskObservation::STATE_REFUSED; };
  coordinator_.Want({Want(Rank(0, 5), "run", "cpu0"), Want(Rank(1, 5), "run", "cpu7")});
  coordinator_.AwaitTask("generation 5", Rank(0, 5), IsRunning);
  EXPECT_THAT(coordinator_.AwaitTask("no such slot", Rank(1, 5), refused).exit().message(), HasSubstr("no slot cpu7"));
  DesiredTask garbage = Want(Rank(2, 5), "run", "cpu1");
  garbage.set_task_json("{\"rank\": \"two\"}");
  coordinator_.Want({Want(Rank(0, 5), "run", "cpu0"), Want(Rank(0, 4), "run", "cpu1"), garbage});
  EXPECT_THAT(coordinator_.AwaitTask("generation 4", Rank(0, 4), refused).exit().message(), HasSubstr("newer generation"));
  EXPECT_THAT(coordinator_.AwaitTask("garbage", Rank(2, 5), refused).exit().message(), HasSubstr("rank: expected"));
  // Attempts to prepare are counted apart: a first one is not outdated by generation 5.
  coordinator_.Want({Want(Rank(0, 5), "run", "cpu0"), Want(Prepare(), "succeed")});
  EXPECT_EQ(coordinator_.AwaitTask("prepare", Prepare(), HasExited).exit().exit_code(), 0);
}

TEST_F(WorkerProcessTest, OrdersOfAnOutdatedCoordinatorAreRefusedAlsoByANewDaemon) {
  StartWorker();
  coordinator_.SetEpoch(7);
  coordinator_.Want({Want(Rank(0), "run")});
  const TaskObservation task = coordinator_.AwaitTask("a running task", Rank(0), IsRunning);
  coordinator_.AwaitObserved("epoch 7", [](const Observed& o) { return o.coordinator_epoch() == 7; });
  ::kill(DaemonPid(), SIGKILL);
  coordinator_.SetEpoch(6);
  coordinator_.Want({});
  coordinator_.AwaitObserved("a new daemon", [](const Observed& o) { return o.worker_incarnation() >= 2; });
  // The outdated one wants no tasks; it is heard again and again and not obeyed.
  const size_t reports = coordinator_.Reports(Rank(0)).size();
  coordinator_.AwaitReports(Rank(0), reports + 50);
  coordinator_.SetEpoch(8);
  coordinator_.Want({Want(Rank(0), "run")});
  coordinator_.AwaitObserved("epoch 8", [](const Observed& o) { return o.coordinator_epoch() == 8; });
  EXPECT_EQ(coordinator_.AwaitTask("the same task", Rank(0), IsRunning).pid(), task.pid());
  FinishAndExpectWhole(Rank(0));
}

TEST_F(WorkerProcessTest, DrainingWaitsForTasksAndThenLeaves) {
  StartWorker();
  coordinator_.Want({Want(Rank(0), "run", "cpu0")});
  coordinator_.AwaitTask("a running task", Rank(0), IsRunning);
  ::kill(keeper_, SIGTERM);
  coordinator_.AwaitObserved("draining", [](const Observed& o) { return o.draining(); });
  coordinator_.Want({Want(Rank(0), "run", "cpu0"), Want(Rank(1), "run", "cpu1")});
  const TaskObservation late = coordinator_.AwaitTask(
      "a late task", Rank(1), [](const TaskObservation& t) { return t.state() == TaskObservation::STATE_REFUSED; });
  EXPECT_EQ(late.exit().reason(), "DRAINING");
  // A daemon that dies meanwhile does not end the draining.
  ::kill(DaemonPid(), SIGKILL);
  coordinator_.AwaitObserved("draining again", [](const Observed& o) { return o.worker_incarnation() == 2 && o.draining(); });
  FinishAndExpectWhole(Rank(0));
  coordinator_.Want({});
  EXPECT_EQ(AwaitKeeper(), 0);
}

TEST_F(WorkerProcessTest, DrainingStopsTasksAfterItsTimeAndTellsHowTheyEnded) {
  StartWorker({{"--drain-timeout", "100ms"}});
  coordinator_.Want({Want(Rank(0), "run")});
  coordinator_.AwaitTask("a running task", Rank(0), IsRunning);
  ::kill(keeper_, SIGTERM);
  EXPECT_EQ(coordinator_.AwaitTask("the end", Rank(0), HasExited).exit().reason(), "STOPPED");
  coordinator_.Want({});
  EXPECT_EQ(AwaitKeeper(), 0);
}

TEST_F(WorkerProcessTest, InterruptStopsEverythingNow) {
  StartWorker();
  coordinator_.Want({Want(Rank(0), "stubborn", "cpu0"), Want(Rank(1), "run", "cpu1")});
  coordinator_.AwaitTask("the stubborn", Rank(0), IsRunning);
  coordinator_.AwaitTask("the other", Rank(1), IsRunning);
  ::kill(keeper_, SIGINT);
  EXPECT_EQ(AwaitKeeper(), 0);
  EXPECT_TRUE(OurProcesses().empty());
}

TEST_F(WorkerProcessTest, WithTheKeeperEverythingDiesAndTheNextWorkerTellsIt) {
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

TEST_F(WorkerProcessTest, TasksWithoutACoordinatorEndAtTheOrphanTimeout) {
  StartWorker({{"--orphan-timeout", "300ms"}});
  coordinator_.Want({Want(Rank(0), "run")});
  coordinator_.AwaitTask("a running task", Rank(0), IsRunning);
  coordinator_.Stop();
  EXPECT_TRUE(Await([&] { return ProcessesWith(state_dir_, "anneal-trainer").empty(); }));
  coordinator_.Start();
  EXPECT_EQ(coordinator_.AwaitTask("the end", Rank(0), HasExited).exit().reason(), "STOPPED");
}

TEST_F(WorkerProcessTest, OneStateFolderServesOneWorker) {
  StartWorker();
  coordinator_.AwaitObserved("registration", [](const Observed& o) { return !o.worker().empty(); });
  const pid_t first = keeper_;
  StartWorker();
  EXPECT_EQ(AwaitKeeper(), 1);
  keeper_ = first;
}

TEST_F(WorkerProcessTest, ABadConfigurationEndsTheWorkerInsteadOfRepeatingIt) {
  StartWorker({{"--data-address", "localhost"}});
  EXPECT_EQ(AwaitKeeper(), 78);
  StartWorker({{"--admin-listen", "nonsense"}});
  EXPECT_EQ(AwaitKeeper(), 78);
}

}  // namespace
}  // namespace anneal
