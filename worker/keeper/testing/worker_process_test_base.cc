#include "worker/keeper/testing/worker_process_test_base.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/status_matchers.h"
#include "common/format/json.h"
#include "common/protocol/messages.h"
#include "worker/daemon/launch.h"
#include "worker/supervisor/spawn.h"

namespace anneal::testing {

using internal::DesiredTask;
using internal::Observed;
using internal::TaskObservation;
using protocol::TaskKey;
using protocol::TaskKind;

constexpr absl::Duration kPatience = absl::Seconds(30);

TaskKey Rank(int rank, int64_t generation) {
  return {.job = kJob, .generation = generation, .rank = rank};
}
TaskKey Prepare() { return {.job = kJob, .generation = 1, .kind = TaskKind::kPrepare}; }

DesiredTask Want(const TaskKey& key, const std::string& mode, const std::string& slot) {
  DesiredTask task;
  *task.mutable_id() = TaskKeyToProto(key);
  task.set_action(DesiredTask::ACTION_RUN);
  if (key.kind == TaskKind::kTrain) task.add_slot_ids(slot);
  // Of a prepare task the rank is an unknown field, which is ignored.
  task.set_task_json(DumpJson(
      {{"job", key.job}, {"generation", key.generation}, {"rank", key.rank}, {"model_dir", mode}}));
  return task;
}

bool IsRunning(const TaskObservation& task) {
  return task.state() == TaskObservation::STATE_RUNNING && task.pid() > 0;
}
bool HasExited(const TaskObservation& task) {
  return task.state() == TaskObservation::STATE_EXITED;
}

bool Await(absl::FunctionRef<bool()> condition) {
  const absl::Duration end = Clock::Real().MonotonicNow() + kPatience;
  while (!condition()) {
    if (Clock::Real().MonotonicNow() > end) return false;
    Clock::Real().Sleep(absl::Milliseconds(5));
  }
  return true;
}

std::vector<pid_t> ProcessesWith(const std::string& text, const std::string& other) {
  std::vector<pid_t> pids;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    pid_t pid = 0;
    if (!absl::SimpleAtoi(entry.path().filename().string(), &pid) || pid == ::getpid()) continue;
    const absl::StatusOr<std::string> line = ReadSmallFile(entry.path().string() + "/cmdline");
    if (!line.ok()) continue;  // gone meanwhile
    if (absl::StrContains(*line, text) && absl::StrContains(*line, other)) pids.push_back(pid);
  }
  return pids;
}

void ExpectWhole(const std::vector<std::string>& reports) {
  ASSERT_GE(reports.size(), 2u);
  const auto parse = [](const std::string& text) {
    return protocol::ReportFromJson(ParseJson(text).value());
  };
  for (size_t i = 0; i + 1 < reports.size(); ++i) {
    const absl::StatusOr<protocol::Report> report = parse(reports[i]);
    ASSERT_TRUE(report.ok() && report->step.has_value()) << reports[i];
    ASSERT_EQ(report->step->step, static_cast<int64_t>(i) + 1);
  }
  const absl::StatusOr<protocol::Report> last = parse(reports.back());
  ASSERT_TRUE(last.ok() && last->result.has_value()) << reports.back();
  EXPECT_EQ(last->result->last_loss, static_cast<double>(reports.size() - 1));
}

WorkerProcessTestBase::WorkerProcessTestBase()
    : bin_dir_(temp_.path() + "/bin"),
      state_dir_(temp_.path() + "/state"),
      own_dir_(std::filesystem::read_symlink("/proc/self/exe").parent_path().string()),
      program_(own_dir_ + "/anneal-worker") {
  std::filesystem::create_directory(bin_dir_);
  for (const char* name : {"/anneal-trainer", "/anneal-prepare"}) {
    std::filesystem::create_symlink(own_dir_ + "/worker_fake_child", bin_dir_ + name);
  }
}

WorkerProcessTestBase::~WorkerProcessTestBase() {
  if (keeper_ > 0) {
    ::kill(keeper_, SIGINT);
    AwaitKeeper();
  }
  EXPECT_TRUE(Await([&] { return OurProcesses().empty(); })) << "processes stayed behind";
}

void WorkerProcessTestBase::StartWorker(FlagMap flags) {
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
  SpawnOptions spawn{.program = program_, .environment = ReadEnvironment()};
  spawn.arguments = {spawn.program};
  for (const auto& [flag, value] : flags) spawn.arguments.push_back(flag + "=" + value);
  ANNEAL_ASSERT_OK_AND_ASSIGN(keeper_, Spawn(spawn));
}

int WorkerProcessTestBase::AwaitKeeper() {
  int wait_status = 0;
  ::waitpid(std::exchange(keeper_, 0), &wait_status, 0);
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : -1;
}

pid_t WorkerProcessTestBase::DaemonPid() const {
  std::vector<pid_t> pids;
  EXPECT_TRUE(Await([&] {
    pids = ProcessesWith(state_dir_, std::string("daemon") + '\0');
    return pids.size() == 1;
  })) << "no daemon";
  return pids.size() == 1 ? pids[0] : 0;
}

int64_t WorkerProcessTestBase::AwaitIncarnationAfter(int64_t last) {
  return coordinator_
      .AwaitObserved("a newer daemon",
                     [last](const Observed& o) { return o.worker_incarnation() > last; })
      .worker_incarnation();
}

std::string WorkerProcessTestBase::RunFolderOf(const TaskKey& key) const {
  return state_dir_ + "/runs/" + TaskName(key);
}

bool WorkerProcessTestBase::IsForgotten(const TaskKey& key) const {
  return !std::filesystem::exists(RunFolderOf(key));
}

void WorkerProcessTestBase::AwaitNoTasks() {
  coordinator_.AwaitObserved(
      "no tasks", [](const Observed& o) { return !o.worker().empty() && o.tasks().empty(); });
}

void WorkerProcessTestBase::FinishAndExpectWhole(const TaskKey& key) {
  DesiredTask finish = Want(key, "run");
  finish.set_action(DesiredTask::ACTION_FINISH);
  coordinator_.Want({finish});
  const TaskObservation task = coordinator_.AwaitTask("the end", key, HasExited);
  EXPECT_EQ(task.exit().exit_code(), 0);
  EXPECT_EQ(task.exit().status_code(), 0);
  EXPECT_EQ(task.exit().message(), "done");
  ExpectWhole(coordinator_.Reports(key));
}

}  // namespace anneal::testing
