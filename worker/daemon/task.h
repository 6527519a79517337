#pragma once
// One task on this worker: from the coordinator's wish, through one process, to the report of its
// end.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "anneal/internal/fleet_service.pb.h"
#include "anneal/v1/cluster_service.pb.h"
#include "common/base/clock.h"
#include "worker/daemon/options.h"
#include "worker/daemon/process_watch.h"
#include "worker/daemon/spare_policy.h"
#include "worker/supervisor/keeper_client.h"
#include "worker/supervisor/rank_channel.h"
#include "worker/supervisor/report_reader.h"
#include "worker/supervisor/run_folder.h"

namespace anneal {

//   kWaiting -> kStarting -> kRunning -> kEnded
//       \-> kRefused            \-> kEnded
//
// kWaiting has no run folder yet: its slot is still held by a task that is being stopped. kStarting
// is requested from the keeper and has not said hello. Owned by WorkerDaemon, used from its loop
// only, never blocks.
class Task {
 public:
  enum class State { kWaiting, kStarting, kRunning, kEnded, kRefused };

  // What every task needs; outlives them all.
  struct Context {
    const WorkerOptions& options;
    const std::vector<v1::Slot>& slots;
    KeeperClient& keeper;
    SparePolicy& spares;
    Clock& clock;
  };

  // A task that is desired and new here. Refused, if its description is not in order.
  Task(const Context& context, const protocol::TaskKey& key, const internal::DesiredTask& desired);
  // A task that is desired, and this worker must not run for the reason given.
  Task(const Context& context, const protocol::TaskKey& key, const absl::Status& refusal);
  // One that an earlier daemon has left in `folder`, alive or not.
  Task(const Context& context, const RunFolder& folder, TaskFile file);

  const protocol::TaskKey& key() const { return key_; }
  State state() const { return state_; }
  const std::vector<std::string>& slots() const { return file_.slots; }
  // Whether it has a process, or may have one.
  bool holds_slots() const { return state_ == State::kStarting || state_ == State::kRunning; }
  bool stopping() const { return stop_time_.has_value(); }

  // From kWaiting: makes the run folder and asks for the process.
  void Start();
  // Takes over what may change in a wish: action, rendezvous, acknowledgement.
  void Update(const internal::DesiredTask& desired);
  // Asks a trainer to leave at a step boundary with a checkpoint.
  void Pause();
  // Begins to end the process: asks it, then SIGTERM, then SIGKILL. Nothing if it is on its way
  // already.
  void Stop();
  // The same without asking first; but one that hangs inside a collective may say where, for a
  // few seconds.
  void Kill();
  // Looks at the folder and the socket and moves on. Whether there is something new to observe.
  bool Advance();
  // Removes what is on disk. The task must not hold slots.
  void Forget();

  // For poll: -1 when there is no connection.
  int fd() const { return channel_.has_value() ? channel_->fd() : -1; }
  bool wants_to_write() const { return channel_.has_value() && channel_->wants_to_write(); }
  // Whether Advance has to be called soon without an event: it waits for a socket to appear or for
  // a grace to pass.
  bool needs_tick() const { return state_ == State::kStarting || (stopping() && holds_slots()); }

  // Whether it is a trainer on its way to its first step, or from its last one to its end.
  bool in_transition() const;

  // Whether Advance has to be called a few times a second: the process is watched.
  bool watched() const { return watch_.has_value() && holds_slots(); }

  internal::TaskObservation Observe() const;
  // How it ended; for a task in kEnded or kRefused.
  const internal::TaskExit& exit() const { return exit_; }
  // What the child said of its seconds; null before it did.
  const protocol::RankReport* rank_report() const;

 private:
  // Hands on what the newest wish says, as far as there is a process to hear it.
  void Obey();
  // Has a trainer that hears write its stacks, if that is wished again.
  void AskForStacks();
  // Makes the parts that follow the run folder.
  void Attach(const RunFolder& folder);
  void AskForProcess();
  // Kills a trainer that stands still or takes too much.
  void Watch(bool heard);
  // Puts into its log where a trainer stands that cannot say so itself.
  void SaveThreadStates();
  void LookAtFolder();
  void End(internal::TaskExit exit);
  void Escalate();
  absl::Duration WordsPatience() const;

  const Context context_;
  const protocol::TaskKey key_;
  State state_ = State::kWaiting;
  TaskFile file_;
  internal::DesiredTask wish_;              // the newest, without the task itself
  std::optional<int64_t> stacks_requests_;  // of the first wish, then of the last heeded
  std::optional<RunFolder> folder_;
  std::optional<RankChannel> channel_;
  std::optional<ReportReader> reports_;
  std::optional<ProcessWatch> watch_;           // of a trainer
  absl::Status verdict_;                        // of watch_: why the process was killed
  std::optional<int64_t> out_of_memory_kills_;  // of the kernel, before the start
  ProcessIdentity process_;                     // pid 0 until known
  internal::TaskExit exit_;
  std::optional<absl::Duration> stop_time_;  // when Stop was called
  bool at_once_ = false;                     // Kill was called
  int last_signal_ = 0;
};

}  // namespace anneal
