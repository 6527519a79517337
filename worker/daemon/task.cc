#include "worker/daemon/task.h"

#include <algorithm>
#include <csignal>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "worker/daemon/launch.h"
#include "worker/daemon/task_exit.h"
#include "worker/daemon/thread_states.h"

namespace anneal {

using internal::TaskObservation;
using protocol::StopMode;

namespace {

// Bytes that the host sets aside for a task on these slots; 0 = nothing is said.
int64_t HostMemoryOf(const std::vector<std::string>& ids, const std::vector<v1::Slot>& slots) {
  int64_t bytes = 0;
  for (const v1::Slot& slot : slots) {
    const bool held = std::count(ids.begin(), ids.end(), slot.id()) > 0;
    if (held && slot.accelerator() == v1::ResourceSpec::ACCELERATOR_CPU)
      bytes += slot.memory_bytes();
  }
  return bytes;
}

}  // namespace

Task::Task(const Context& context, const protocol::TaskKey& key,
           const internal::DesiredTask& desired)
    : context_(context), key_(key) {
  absl::StatusOr<TaskFile> file = MakeTaskFile(desired, key, context.slots, context.options);
  if (file.ok()) {
    file_ = *std::move(file);
  } else {
    state_ = State::kRefused;
    exit_ = MakeRefusal(file.status());
  }
}

Task::Task(const Context& context, const protocol::TaskKey& key, const absl::Status& refusal)
    : context_(context), key_(key), state_(State::kRefused), exit_(MakeRefusal(refusal)) {}

Task::Task(const Context& context, const RunFolder& folder, TaskFile file)
    : context_(context), key_(folder.key()), state_(State::kStarting), file_(std::move(file)) {
  Attach(folder);
  // The daemon before us may have ended between writing task.json and asking; the keeper ignores
  // what it has done already.
  AskForProcess();
}

void Task::Attach(const RunFolder& folder) {
  folder_ = folder;
  channel_.emplace(folder.FilePath(protocol::kSocketName), key_,
                   protocol::Start{.storage_root = file_.storage_root, .task = file_.task},
                   context_.clock);
  reports_.emplace(folder.FilePath(protocol::kReportsName));
  out_of_memory_kills_ = CountOutOfMemoryKills();
  if (key_.kind != protocol::TaskKind::kTrain) return;
  watch_.emplace(absl::StrCat("rank ", key_.rank, " on worker ", context_.options.name),
                 HostMemoryOf(file_.slots, context_.slots), context_.clock);
}

void Task::AskForProcess() {
  const SpawnRequest request = MakeSpawnRequest(*folder_, file_, context_.slots, context_.options);
  context_.keeper.Spawn(request);
  if (!request.slot.empty()) context_.spares.Started(request.slot, request.image);
}

void Task::Start() {
  absl::StatusOr<RunFolder> folder =
      RunFolder::Create(context_.options.state_dir + "/runs", key_, file_);
  if (!folder.ok()) {
    state_ = State::kRefused;
    exit_ = MakeRefusal(folder.status());
    return;
  }
  state_ = State::kStarting;
  Attach(*folder);
  Obey();
  AskForProcess();
  ANNEAL_LOG(INFO) << "task started" << TaskFields(key_);
}

void Task::Update(const internal::DesiredTask& desired) {
  wish_ = desired;
  wish_.clear_task_json();
  AskForStacks();
  Obey();
}

void Task::Obey() {
  if (reports_.has_value()) reports_->Acknowledge(wish_.acknowledged_report());
  if (!channel_.has_value()) return;
  channel_->SetRendezvous(wish_.rendezvous());
  if (wish_.action() == internal::DesiredTask::ACTION_PAUSE) Pause();
  if (wish_.action() == internal::DesiredTask::ACTION_FINISH) channel_->SetStop(StopMode::kFinish);
}

void Task::AskForStacks() {
  if (!stacks_requests_.has_value()) stacks_requests_ = wish_.stacks_requests();
  // To one that has not said hello yet the signal might be the end.
  if (state_ != State::kRunning || wish_.stacks_requests() <= *stacks_requests_) return;
  stacks_requests_ = wish_.stacks_requests();
  context_.keeper.Kill({.run_dir = folder_->path(), .signal = SIGUSR1});
}

void Task::Pause() {
  if (channel_.has_value() && key_.kind == protocol::TaskKind::kTrain)
    channel_->SetStop(StopMode::kPause);
}

void Task::Stop() {
  if (stopping() || !holds_slots()) return;
  ANNEAL_LOG(INFO) << "task is being stopped" << TaskFields(key_);
  stop_time_ = context_.clock.MonotonicNow();
  channel_->SetStop(StopMode::kNow);
}

void Task::Kill() {
  Stop();
  at_once_ = true;
}

bool Task::Advance() {
  if (!holds_slots()) {
    // Reports beyond the window wait for acknowledgements, also after the end, and the end waits
    // for them.
    return reports_.has_value() && !reports_->at_end() &&
           (reports_->Poll().value_or(false) || reports_->at_end());
  }
  const State old_state = state_;
  bool changed = channel_->Serve();
  if (channel_->greeted()) state_ = State::kRunning;
  LookAtFolder();
  if (watched() && process_.pid != 0) Watch(changed);
  if (stopping() && holds_slots()) Escalate();
  // After the look for the end, so that nothing is written after the last poll.
  absl::StatusOr<bool> read = reports_->Poll();
  if (!read.ok())
    ANNEAL_LOG(ERROR) << "cannot read reports" << TaskFields(key_)
                      << Field("why", read.status().message());
  return changed || state_ != old_state || read.value_or(false);
}

void Task::LookAtFolder() {
  if (process_.pid == 0) process_ = folder_->ReadProcess().value_or(ProcessIdentity{});
  absl::StatusOr<ProcessEnd> end = folder_->ReadEnd();
  if (!end.ok()) return;
  const bool killed_by_others = end->signal == SIGKILL && !end->lost && last_signal_ == 0;
  if (verdict_.ok() && killed_by_others && CountOutOfMemoryKills() > out_of_memory_kills_) {
    verdict_ = WithReason(absl::ResourceExhaustedError("the kernel killed it for want of memory"),
                          "OUT_OF_MEMORY");
  }
  internal::TaskExit exit = MakeTaskExit(*end, folder_->ReadExitRecord());
  // One that had not got so far as to say how it ends.
  if (stopping() && end->signal != 0 && end->signal == last_signal_ && exit.reason() == "KILLED")
    SetCause(WithReason(absl::CancelledError("stopped by its worker"), "STOPPED"), exit);
  if (!verdict_.ok()) SetCause(verdict_, exit);
  End(std::move(exit));
}

void Task::Watch(bool heard) {
  if (!verdict_.ok() || stopping()) return;
  // Nothing is expected of one that has not said hello yet.
  heard = heard || state_ == State::kStarting;
  verdict_ = watch_->Look(process_.pid, heard, channel_->status());
  if (verdict_.ok()) return;
  ANNEAL_LOG(ERROR) << "a trainer is killed" << TaskFields(key_)
                    << Field("why", verdict_.message());
  if (ReasonOf(verdict_) == "UNRESPONSIVE") SaveThreadStates();
  context_.keeper.Kill({.run_dir = folder_->path(), .signal = SIGKILL});
}

void Task::SaveThreadStates() {
  const absl::Status saved =
      AppendToLog(LogPath(key_, file_.storage_root), DescribeThreads(process_.pid));
  if (!saved.ok()) {
    ANNEAL_LOG(WARNING) << "the states of a trainer's threads are not in its log"
                        << Field("task", TaskName(key_)) << Field("why", saved.message());
  }
}

void Task::End(internal::TaskExit exit) {
  state_ = State::kEnded;
  exit_ = std::move(exit);
  exit_.set_log_tail(ReadLogTail(LogPath(key_, file_.storage_root)));
  channel_.reset();
  ANNEAL_LOG(INFO) << "task ended" << TaskFields(key_) << Field("exit_code", exit_.exit_code())
                   << Field("signal", exit_.signal()) << Field("reason", exit_.reason());
}

void Task::Escalate() {
  const absl::Duration waited = context_.clock.MonotonicNow() - *stop_time_;
  const absl::Duration grace = context_.options.stop_grace;
  int signal = 0;
  // Only a child that has been heard can have been asked.
  if (waited >= grace || !channel_->greeted()) signal = SIGTERM;
  if (waited >= 2 * grace || (at_once_ && waited >= WordsPatience())) signal = SIGKILL;
  if (signal == 0 || signal == last_signal_ || process_.pid == 0) return;
  last_signal_ = signal;
  context_.keeper.Kill({.run_dir = folder_->path(), .signal = signal});
}

absl::Duration Task::WordsPatience() const {
  // It writes the stacks of its threads when it is told to stop, which takes a moment.
  const protocol::RankReport* rank = rank_report();
  return rank != nullptr && !rank->overdue.empty() ? absl::Seconds(3) : absl::ZeroDuration();
}

void Task::Forget() {
  ANNEAL_CHECK(!holds_slots());
  if (!folder_.has_value()) return;
  if (absl::Status status = folder_->Remove(); !status.ok()) {
    ANNEAL_LOG(ERROR) << "a run folder stays behind" << TaskFields(key_)
                      << Field("why", status.message());
  }
}

TaskObservation Task::Observe() const {
  TaskObservation observation;
  *observation.mutable_id() = TaskKeyToProto(key_);
  observation.set_pid(process_.pid);
  if (reports_.has_value()) {
    for (const NumberedReport& report : reports_->window()) {
      internal::Report* copy = observation.add_reports();
      copy->set_sequence(report.sequence);
      copy->set_json(report.json);
    }
  }
  if (channel_.has_value()) {
    observation.set_rendezvous(channel_->rendezvous());
    observation.set_phase(channel_->status().phase);
  }
  if (const protocol::RankReport* rank = rank_report(); rank != nullptr && !rank->overdue.empty()) {
    observation.mutable_overdue()->set_sequence(rank->collective_sequence);
    observation.mutable_overdue()->set_where(rank->overdue);
  }
  switch (state_) {
    case State::kWaiting:
    case State::kStarting:
      observation.set_state(TaskObservation::STATE_STARTING);
      break;
    case State::kRunning:
      observation.set_state(TaskObservation::STATE_RUNNING);
      break;
    case State::kEnded:
      // The end is told together with the last report, not before it.
      if (!reports_->at_end()) {
        observation.set_state(TaskObservation::STATE_RUNNING);
        break;
      }
      observation.set_state(TaskObservation::STATE_EXITED);
      *observation.mutable_exit() = exit_;
      break;
    case State::kRefused:
      observation.set_state(TaskObservation::STATE_REFUSED);
      *observation.mutable_exit() = exit_;
  }
  return observation;
}

bool Task::in_transition() const {
  return key_.kind == protocol::TaskKind::kTrain && holds_slots() &&
         channel_->status().phase != "train";
}

const protocol::RankReport* Task::rank_report() const {
  if (!channel_.has_value() || !channel_->status().rank.has_value()) return nullptr;
  return &*channel_->status().rank;
}

}  // namespace anneal
