// Tasks on a worker that is well: how they start, run, end and are stopped.

#include <fcntl.h>
#include <sched.h>
#include <sys/file.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "common/base/file.h"
#include "common/base/status_matchers.h"
#include "common/format/json.h"
#include "common/metrics/testing/http_get.h"
#include "worker/daemon/launch.h"
#include "worker/keeper/testing/worker_process_test_base.h"
#include "worker/supervisor/cpu_list.h"
#include "worker/supervisor/run_folder.h"

namespace anneal {
namespace {

using ::anneal::testing::Await;
using ::anneal::testing::ExpectWhole;
using ::anneal::testing::HasExited;
using ::anneal::testing::HttpGet;
using ::anneal::testing::IsRunning;
using ::anneal::testing::Prepare;
using ::anneal::testing::Rank;
using ::anneal::testing::Want;
using internal::DesiredTask;
using internal::Observed;
using internal::TaskObservation;
using protocol::TaskKey;
using ::testing::HasSubstr;

using WorkerTasksTest = testing::WorkerProcessTestBase;

TEST_F(WorkerTasksTest, RegistersRunsATaskAndForgetsIt) {
  StartWorker();
  const Observed idle = coordinator_.AwaitObserved(
      "registration", [](const Observed& o) { return o.slots_size() == 2; });
  EXPECT_EQ(idle.worker(), "w1");
  EXPECT_GT(idle.worker_incarnation(), 0);
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

TEST_F(WorkerTasksTest, ATaskRunsOnTheProcessorsNearItsGpu) {
  // The driver says that the first GPU is near our first processor.
  const std::filesystem::path own = std::filesystem::read_symlink("/proc/self/exe");
  StartWorker({{"--nvml-library", own.parent_path().parent_path() / "lib/libfake_nvml.so"},
               {"--device-lock-dir", temp_.path()}});
  coordinator_.Want({Want(Rank(0), "run", "GPU-00000000"), Want(Rank(1), "run", "GPU-00000001")});
  const TaskObservation near = coordinator_.AwaitTask("a task", Rank(0), IsRunning);
  const TaskObservation anywhere = coordinator_.AwaitTask("a task", Rank(1), IsRunning);
  cpu_set_t set;
  ASSERT_EQ(::sched_getaffinity(near.pid(), sizeof(set), &set), 0);
  EXPECT_EQ(CPU_COUNT(&set), 1);
  EXPECT_TRUE(CPU_ISSET(UsableProcessors().front(), &set));
  ASSERT_EQ(::sched_getaffinity(anywhere.pid(), sizeof(set), &set), 0);
  EXPECT_EQ(CPU_COUNT(&set), static_cast<int>(UsableProcessors().size()));
  coordinator_.Want({});
  AwaitNoTasks();
}

TEST_F(WorkerTasksTest, AWorkerThatRequiresGpusLendsNothingWithoutAndSaysWhatIsMissing) {
  const std::string library = temp_.path() + "/libnvidia-ml.so.1";
  const FlagMap flags = {
      {"--require-gpus", "true"}, {"--nvml-library", library}, {"--device-lock-dir", temp_.path()}};
  StartWorker(flags);
  const std::string address_file = temp_.path() + "/addresses.json";
  ASSERT_TRUE(Await([&] { return std::filesystem::exists(address_file); }));
  ANNEAL_ASSERT_OK_AND_ASSIGN(Json addresses, ReadJsonFile(address_file));
  const std::string admin = addresses["admin"].get<std::string>();
  const std::string ready = HttpGet(admin, "GET /readyz");
  EXPECT_THAT(ready, HasSubstr("503"));
  EXPECT_THAT(ready, HasSubstr(library));
  EXPECT_THAT(ready, HasSubstr("runtimeClassName"));
  EXPECT_THAT(HttpGet(admin, "GET /livez"), HasSubstr("200 OK"));
  EXPECT_THAT(HttpGet(admin, "GET /metrics"), HasSubstr("anneal_worker_inventory_failures_total"));
  // One that is told to leave does.
  ::kill(keeper_, SIGTERM);
  EXPECT_EQ(AwaitKeeper(), 0);

  // The driver comes late: after a look that has found none.
  std::filesystem::remove(address_file);
  StartWorker(flags);
  ASSERT_TRUE(Await([&] { return std::filesystem::exists(address_file); }));
  const std::filesystem::path own = std::filesystem::read_symlink("/proc/self/exe");
  std::filesystem::copy_file(own.parent_path().parent_path() / "lib/libfake_nvml.so",
                             temp_.path() + "/copy.so");
  std::filesystem::rename(temp_.path() + "/copy.so", library);
  const Observed observed = coordinator_.AwaitObserved(
      "registration", [](const Observed& o) { return o.slots_size() > 0; });
  // Beside the CPU slots that were asked for.
  ASSERT_EQ(observed.slots_size(), 4);
  EXPECT_EQ(observed.slots(2).device_uuid(), "GPU-00000000");
}

TEST_F(WorkerTasksTest, EndsAreToldWithTheirCauseAndTheLogsEnd) {
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

TEST_F(WorkerTasksTest, ATrainerThatTakesTooMuchMemoryIsEndedAndItsNeighbourIsNot) {
  StartWorker({{"--slot-memory", "768MiB"}});
  coordinator_.Want({Want(Rank(0), "greedy", "cpu0"), Want(Rank(1), "run", "cpu1")});
  const TaskObservation greedy = coordinator_.AwaitTask("the end", Rank(0), HasExited);
  EXPECT_EQ(greedy.exit().reason(), "OUT_OF_MEMORY");
  EXPECT_EQ(greedy.exit().signal(), SIGKILL);
  EXPECT_THAT(greedy.exit().message(), AllOf(HasSubstr("rank 0 on worker w1 took "),
                                             HasSubstr(" of the 768 MiB that its slot has")));
  const TaskObservation neighbour = coordinator_.AwaitTask("the neighbour", Rank(1), IsRunning);
  EXPECT_TRUE(IdentifyProcess(neighbour.pid()).ok());
}

TEST_F(WorkerTasksTest, EachRequestForStacksReachesATrainerOnce) {
  StartWorker();
  DesiredTask task = Want(Rank(0), "run", "cpu0");
  task.set_stacks_requests(3);  // made before this worker knew of the task
  coordinator_.Want({task});
  coordinator_.AwaitReports(Rank(0), 1);
  const std::string log = LogPath(Rank(0), temp_.path() + "/storage");
  for (int asked = 1; asked <= 2; ++asked) {
    task.set_stacks_requests(3 + asked);
    coordinator_.Want({task});
    const auto count = [&log] {
      const std::vector<std::string> parts =
          absl::StrSplit(ReadSmallFile(log).value_or(""), "asked for stacks\n");
      return parts.size() - 1;
    };
    EXPECT_TRUE(Await([&] { return count() >= static_cast<size_t>(asked); }));
    EXPECT_EQ(count(), static_cast<size_t>(asked));
  }
}

TEST_F(WorkerTasksTest, AProgramThatIsMissingIsSaid) {
  std::filesystem::remove(bin_dir_ + "/anneal-trainer");
  StartWorker();
  coordinator_.Want({Want(Rank(0), "succeed")});
  const TaskObservation task = coordinator_.AwaitTask("the end", Rank(0), HasExited);
  EXPECT_EQ(task.exit().reason(), "START_FAILED");
  EXPECT_THAT(task.exit().message(), HasSubstr("cannot start"));
  EXPECT_THAT(task.exit().message(), HasSubstr("anneal-trainer"));
}

TEST_F(WorkerTasksTest, RanksFindEachOtherThroughTheCoordinator) {
  StartWorker();
  std::vector<DesiredTask> tasks = {Want(Rank(0), "join", "cpu0"), Want(Rank(1), "join", "cpu1")};
  coordinator_.Want(tasks);
  const TaskObservation first = coordinator_.AwaitTask(
      "a rendezvous", Rank(0), [](const TaskObservation& t) { return !t.rendezvous().empty(); });
  EXPECT_EQ(first.rendezvous(), "127.0.0.1:4242");
  for (DesiredTask& task : tasks) task.set_rendezvous(first.rendezvous());
  coordinator_.Want(tasks);
  EXPECT_THAT(coordinator_.AwaitReports(Rank(1), 1)[0], HasSubstr("127.0.0.1:4242"));
}

TEST_F(WorkerTasksTest, WhatIsNotWantedIsAskedThenTerminatedThenKilled) {
  StartWorker();
  coordinator_.Want({Want(Rank(0), "run", "cpu0"), Want(Rank(1), "stubborn", "cpu1")});
  const TaskObservation polite = coordinator_.AwaitTask("the polite", Rank(0), IsRunning);
  const TaskObservation stubborn = coordinator_.AwaitTask("the stubborn", Rank(1), IsRunning);
  coordinator_.AwaitReports(Rank(1), 1);
  coordinator_.Want({});
  AwaitNoTasks();
  EXPECT_TRUE(IsForgotten(Rank(0)));
  EXPECT_TRUE(IsForgotten(Rank(1)));
  EXPECT_FALSE(IdentifyProcess(polite.pid()).ok());
  EXPECT_FALSE(IdentifyProcess(stubborn.pid()).ok());
}

TEST_F(WorkerTasksTest, AStoppedTrainerIsNamedAndKilled) {
  StartWorker();
  coordinator_.Want({Want(Rank(0), "run", "cpu0"), Want(Rank(1), "run", "cpu1")});
  const TaskObservation victim = coordinator_.AwaitTask("a running task", Rank(1), IsRunning);
  coordinator_.AwaitReports(Rank(1), 1);
  ::kill(static_cast<pid_t>(victim.pid()), SIGSTOP);
  const TaskObservation end = coordinator_.AwaitTask("the end", Rank(1), HasExited);
  EXPECT_EQ(end.exit().reason(), "UNRESPONSIVE");
  EXPECT_THAT(end.exit().message(), HasSubstr("rank 1 on worker "));
  EXPECT_THAT(end.exit().message(), HasSubstr("was stopped by a signal in train, step "));
  EXPECT_TRUE(IsRunning(coordinator_.AwaitTask("its neighbour", Rank(0), IsRunning)));
  // It can write no stacks; what the kernel knows of it is in its log.
  EXPECT_THAT(end.exit().log_tail(), AllOf(HasSubstr("what the kernel shows of the "),
                                           HasSubstr(absl::StrCat("\nthread ", victim.pid(), " ")),
                                           HasSubstr(", state T")));
}

TEST_F(WorkerTasksTest, ATrainerThatIsOverdueInACollectiveIsTold) {
  StartWorker();
  coordinator_.Want({Want(Rank(0), "run", "cpu0"), Want(Rank(1), "wait", "cpu1")});
  const TaskObservation waits = coordinator_.AwaitTask(
      "the wait", Rank(1), [](const TaskObservation& task) { return task.has_overdue(); });
  EXPECT_EQ(waits.overdue().sequence(), 7);
  EXPECT_EQ(waits.overdue().where(), "inside collective 7");
  EXPECT_FALSE(coordinator_.AwaitTask("its neighbour", Rank(0), IsRunning).has_overdue());
}

TEST_F(WorkerTasksTest, ASlotIsNeverLentTwice) {
  StartWorker();
  coordinator_.Want({Want(Rank(0), "stubborn")});
  const TaskObservation first = coordinator_.AwaitTask("the first", Rank(0), IsRunning);
  coordinator_.AwaitReports(Rank(0), 1);
  // The next generation wants the slot at once; it starts only when the process before has been
  // killed.
  coordinator_.Want({Want(Rank(0, 2), "run")});
  coordinator_.AwaitObserved("the second", [](const Observed& observed) {
    const auto running = std::count_if(
        observed.tasks().begin(), observed.tasks().end(),
        [](const TaskObservation& task) { return task.pid() > 0 && !HasExited(task); });
    EXPECT_LE(running, 1);
    return observed.tasks_size() == 1 && observed.tasks(0).id().generation() == 2 &&
           IsRunning(observed.tasks(0));
  });
  EXPECT_FALSE(IdentifyProcess(first.pid()).ok());
}

// Rank 0 may be ready before the slot of rank 1 is free.
TEST_F(WorkerTasksTest, WhatIsSaidToATaskThatWaitsForItsSlotIsNotLost) {
  StartWorker();
  coordinator_.Want({Want(Rank(1), "stubborn")});
  coordinator_.AwaitTask("the first", Rank(1), IsRunning);
  coordinator_.AwaitReports(Rank(1), 1);
  DesiredTask next = Want(Rank(1, 2), "join");
  next.set_rendezvous("127.0.0.1:4242");
  coordinator_.Want({next});
  EXPECT_THAT(coordinator_.AwaitReports(Rank(1, 2), 1)[0], HasSubstr("127.0.0.1:4242"));
}

TEST_F(WorkerTasksTest, ASlotThatSomebodyElseHoldsIsSaid) {
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

TEST_F(WorkerTasksTest, OperatorsSeeTheWorkerAndItsRanks) {
  StartWorker();
  coordinator_.AwaitObserved("registration", [](const Observed& o) { return !o.worker().empty(); });
  coordinator_.Want({Want(Rank(0), "run")});
  coordinator_.AwaitReports(Rank(0), 10);
  ANNEAL_ASSERT_OK_AND_ASSIGN(Json addresses, ReadJsonFile(temp_.path() + "/addresses.json"));
  const std::string admin = addresses["admin"].get<std::string>();
  std::string scrape;
  EXPECT_TRUE(Await([&] {
    scrape = HttpGet(admin, "GET /metrics");
    return absl::StrContains(
        scrape, "anneal_rank_tokens_total{job_id=\"01hf7yat00abcdefghjkmnpqrs\",rank=\"0\"}");
  })) << scrape;
  EXPECT_THAT(scrape, HasSubstr("phase=\"forward\""));
  EXPECT_THAT(scrape, HasSubstr("anneal_worker_slots{use=\"busy\"} 1"));
  EXPECT_THAT(HttpGet(admin, "GET /readyz"), HasSubstr("200 OK"));
  EXPECT_THAT(HttpGet(admin, "GET /livez"), HasSubstr("200 OK"));
  coordinator_.Stop();
  EXPECT_TRUE(Await([&] { return absl::StrContains(HttpGet(admin, "GET /readyz"), "503"); }));
}

TEST_F(WorkerTasksTest, WhatIsOutdatedOrWrongIsRefused) {
  StartWorker();
  const auto refused = [](const TaskObservation& task) {
    return task.state() == TaskObservation::STATE_REFUSED;
  };
  coordinator_.Want({Want(Rank(0, 5), "run", "cpu0"), Want(Rank(1, 5), "run", "cpu7")});
  coordinator_.AwaitTask("generation 5", Rank(0, 5), IsRunning);
  EXPECT_THAT(coordinator_.AwaitTask("no such slot", Rank(1, 5), refused).exit().message(),
              HasSubstr("no slot cpu7"));
  DesiredTask garbage = Want(Rank(2, 5), "run", "cpu1");
  garbage.set_task_json("{\"rank\": \"two\"}");
  coordinator_.Want({Want(Rank(0, 5), "run", "cpu0"), Want(Rank(0, 4), "run", "cpu1"), garbage});
  EXPECT_THAT(coordinator_.AwaitTask("generation 4", Rank(0, 4), refused).exit().message(),
              HasSubstr("newer generation"));
  EXPECT_THAT(coordinator_.AwaitTask("garbage", Rank(2, 5), refused).exit().message(),
              HasSubstr("rank: expected"));
  // Attempts to prepare are counted apart: a first one is not outdated by generation 5.
  coordinator_.Want({Want(Rank(0, 5), "run", "cpu0"), Want(Prepare(), "succeed")});
  EXPECT_EQ(coordinator_.AwaitTask("prepare", Prepare(), HasExited).exit().exit_code(), 0);
}

}  // namespace
}  // namespace anneal
