#pragma once
// What a worker does: makes its processes be what the coordinator wants, and tells what they are.

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "anneal/internal/fleet_service.pb.h"
#include "anneal/v1/cluster_service.pb.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "worker/daemon/coordinator_link.h"
#include "worker/daemon/options.h"
#include "worker/daemon/spare_policy.h"
#include "worker/daemon/task.h"
#include "worker/daemon/worker_metrics.h"
#include "worker/examiner/examiner.h"
#include "worker/supervisor/keeper_client.h"

namespace anneal {

// One loop in one thread: take the newest desired state, compare it with the tasks, start and stop,
// look at processes and sockets, send the observed state up (on change, and every 2 s). It may die
// at any instruction: the next daemon finds everything in the run folders
// (docs/formats/run_folder.md), and until the coordinator has spoken it stops nothing.
//
// Fencing: desired states of an older coordinator epoch than the newest seen are refused, also
// after a restart; so are tasks of an older generation than one of the same job and kind that is
// here (preparing counts its attempts apart). A slot is lent to one process at a time: a task waits
// until the process before it has ended, whatever is desired.
class WorkerDaemon {
 public:
  // What Run waits for beside sockets, and how other threads raise it. An eventfd.
  static absl::StatusOr<UniqueFd> MakeWakeFd();
  static void WakeUp(int wake_fd);

  // All must outlive the daemon. `wake_fd` is raised whenever `link` or `examiner` has something.
  WorkerDaemon(const WorkerOptions& options, std::vector<v1::Slot> slots, KeeperClient& keeper,
               CoordinatorLink& link, Examiner& examiner, int wake_fd, WorkerMetrics& metrics,
               Clock& clock);

  // Reads what earlier daemons have left and takes a greater incarnation than theirs. Call once,
  // before Run.
  absl::Status SetUp();
  // Until the keeper is gone (UNAVAILABLE) or draining has ended (OK).
  absl::Status Run();

  // Thread-safe: for the readiness probe.
  bool ready() const { return ready_.load(std::memory_order_relaxed); }

 private:
  // worker.json: what outlives a daemon beside the run folders.
  absl::Status ReadMemory();
  absl::Status WriteMemory() const;

  void Wait();
  // Compares wish and reality, as far as no waiting is needed.
  void ApplyDesired(const internal::Desired& desired);
  std::unique_ptr<Task> MakeTask(const protocol::TaskKey& key,
                                 const internal::DesiredTask& desired) const;
  // Whether a newer generation of the same job is wanted here.
  bool IsSuperseded(const protocol::TaskKey& key) const;
  void StartWaitingTasks();
  bool MayStart(const Task& task) const;
  void AdvanceTasks();
  // Which slots tasks hold, and the one that is about to start.
  void TellBusySlots(const Task* starting = nullptr);
  void ForgetUndesired();
  void AskForSpares();
  void StopOrphans();
  // Asks the keeper to drain if there has been nothing to do for too long: also where the
  // coordinator has never been heard, but not while jobs want slots of our kind.
  void LeaveWhenIdle();
  // Whether draining is over and the daemon may leave.
  bool Drain();
  void SendObserved();
  // Whether adopted children have said what they are doing, or had the time: before, the observed
  // state would seem to take back what an earlier daemon has told.
  bool HasSettled();
  internal::Observed Observe() const;
  void UpdateMetrics();

  const WorkerOptions& options_;
  const std::vector<v1::Slot> slots_;
  const std::map<std::string, std::string> software_;
  KeeperClient& keeper_;
  CoordinatorLink& link_;
  Examiner& examiner_;
  const int wake_fd_;
  WorkerMetrics& metrics_;
  Clock& clock_;
  SparePolicy spares_;
  const Task::Context context_;

  int64_t incarnation_ = 0;
  int64_t coordinator_epoch_ = 0;
  std::map<protocol::TaskKey, std::unique_ptr<Task>> tasks_;
  // What is desired. Absent until the coordinator has spoken to this daemon: before, nothing is
  // undesired.
  std::optional<std::set<protocol::TaskKey>> wanted_;
  bool settled_ = false;
  const absl::Duration start_time_;
  absl::Duration last_heard_;
  absl::Duration last_sent_ = -absl::InfiniteDuration();
  bool changed_ = true;  // something to observe since last_sent_
  // Whether jobs want what this worker has, as the coordinator said last.
  bool is_wanted_ = false;
  // Since when there is no task, and nobody says that there may soon be one.
  absl::Duration idle_since_;
  bool leaving_ = false;
  std::optional<absl::Duration> drain_start_;
  std::optional<absl::Duration> drained_since_;  // and the coordinator hears
  std::atomic<bool> ready_{false};
};

}  // namespace anneal
