#include "worker/daemon/worker_daemon.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/start_number.h"
#include "common/base/status.h"
#include "common/base/version.h"
#include "common/format/json.h"
#include "worker/daemon/launch.h"
#include "worker/daemon/software.h"

namespace anneal {
namespace {

using internal::Desired;
using internal::DesiredTask;
using protocol::TaskKey;

constexpr absl::Duration kHeartbeat = absl::Seconds(2);
// Between two observed states: changes that come faster travel together.
constexpr absl::Duration kShortestInterval = absl::Milliseconds(50);
// While a task waits for its socket or for a grace to pass.
constexpr absl::Duration kTick = absl::Milliseconds(50);
// How often trainers are looked at.
constexpr absl::Duration kWatchInterval = absl::Milliseconds(500);
// How long a new daemon waits for adopted children to say hello before it speaks itself.
constexpr absl::Duration kSettleTime = absl::Seconds(2);
// How long a drained daemon tries to tell a coordinator that hears how its tasks ended.
constexpr absl::Duration kLastWords = absl::Seconds(3);

const char* StateName(Task::State state) {
  switch (state) {
    case Task::State::kWaiting:
      return "waiting";
    case Task::State::kStarting:
      return "starting";
    case Task::State::kRunning:
      return "running";
    case Task::State::kEnded:
      return "ended";
    case Task::State::kRefused:
      return "refused";
  }
  return "";
}

}  // namespace

absl::StatusOr<UniqueFd> WorkerDaemon::MakeWakeFd() {
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, "cannot make an eventfd");
  return fd;
}

void WorkerDaemon::WakeUp(int wake_fd) {
  const uint64_t one = 1;
  // Can only fail when the counter is full, and then the loop is awake anyway.
  [[maybe_unused]] ssize_t ignored = ::write(wake_fd, &one, sizeof(one));
}

WorkerDaemon::WorkerDaemon(const WorkerOptions& options, std::vector<v1::Slot> slots,
                           KeeperClient& keeper, CoordinatorLink& link, Examiner& examiner,
                           int wake_fd, WorkerMetrics& metrics, Clock& clock)
    : options_(options),
      slots_(std::move(slots)),
      software_(FindSoftware(options.inventory.use_gpus ? options.inventory.nvml_library : "")),
      keeper_(keeper),
      link_(link),
      examiner_(examiner),
      wake_fd_(wake_fd),
      metrics_(metrics),
      clock_(clock),
      spares_(MakeFirstSpares(slots_, options_)),
      context_{options_, slots_, keeper_, spares_, clock_},
      start_time_(clock.MonotonicNow()),
      last_heard_(start_time_),
      idle_since_(start_time_) {}

absl::Status WorkerDaemon::SetUp() {
  const std::string slot_dir = options_.state_dir + "/slots";
  if (::mkdir(slot_dir.c_str(), 0700) != 0 && errno != EEXIST) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make ", slot_dir));
  }
  ANNEAL_RETURN_IF_ERROR(ReadMemory());
  incarnation_ = NextStartNumber(incarnation_, clock_.TimeNow());
  ANNEAL_RETURN_IF_ERROR(WriteMemory());
  ANNEAL_ASSIGN_OR_RETURN(std::vector<RunFolder> folders,
                          RunFolder::List(options_.state_dir + "/runs"));
  for (const RunFolder& folder : folders) {
    absl::StatusOr<TaskFile> file = folder.ReadTask();
    if (!file.ok()) {
      // Without its description a task cannot be led to a good end; the coordinator will miss it
      // and begin anew.
      ANNEAL_LOG(ERROR) << "task killed" << TaskFields(folder.key())
                        << Field("why", file.status().message());
      keeper_.Kill({.run_dir = folder.path(), .signal = SIGKILL});
      continue;
    }
    tasks_[folder.key()] = std::make_unique<Task>(context_, folder, *std::move(file));
    ANNEAL_LOG(INFO) << "task adopted" << TaskFields(folder.key());
  }
  metrics_.incarnation.Set(static_cast<double>(incarnation_));
  return absl::OkStatus();
}

absl::Status WorkerDaemon::ReadMemory() {
  const std::string path = options_.state_dir + "/worker.json";
  absl::StatusOr<std::string> text = ReadSmallFile(path);
  if (absl::IsNotFound(text.status())) return absl::OkStatus();
  ANNEAL_RETURN_IF_ERROR(text.status());
  ANNEAL_ASSIGN_OR_RETURN(Json json, ParseJson(*text));
  return CatchAll(path, [&]() -> absl::Status {
    incarnation_ = json.at("incarnation").get<int64_t>();
    coordinator_epoch_ = json.at("coordinator_epoch").get<int64_t>();
    return absl::OkStatus();
  });
}

absl::Status WorkerDaemon::WriteMemory() const {
  Json json = {{"incarnation", incarnation_}, {"coordinator_epoch", coordinator_epoch_}};
  return WriteFileAtomically(options_.state_dir + "/worker.json", DumpJson(json) + "\n");
}

absl::Status WorkerDaemon::Run() {
  while (true) {
    ANNEAL_RETURN_IF_ERROR(keeper_.Serve());
    if (std::optional<Desired> desired = link_.TakeDesired()) ApplyDesired(*desired);
    if (examiner_.TakeNews()) changed_ = true;
    StopOrphans();
    AdvanceTasks();
    TellBusySlots();
    ForgetUndesired();
    StartWaitingTasks();
    AskForSpares();
    LeaveWhenIdle();
    if (Drain()) return absl::OkStatus();
    SendObserved();
    UpdateMetrics();
    Wait();
  }
}

void WorkerDaemon::Wait() {
  std::vector<pollfd> polled = {
      {wake_fd_, POLLIN, 0},
      {keeper_.fd(), static_cast<short>(keeper_.wants_to_write() ? POLLIN | POLLOUT : POLLIN), 0}};
  bool needs_tick = drain_start_.has_value();
  bool watches = false;
  for (const auto& [key, task] : tasks_) {
    needs_tick = needs_tick || task->needs_tick();
    watches = watches || task->watched();
    if (task->fd() < 0) continue;
    polled.push_back(
        {task->fd(), static_cast<short>(task->wants_to_write() ? POLLIN | POLLOUT : POLLIN), 0});
  }
  const absl::Duration next_send = last_sent_ + (changed_ ? kShortestInterval : kHeartbeat);
  absl::Duration timeout =
      settled_ ? std::max(absl::ZeroDuration(), next_send - clock_.MonotonicNow()) : kTick;
  if (watches) timeout = std::min(timeout, kWatchInterval);
  if (needs_tick) timeout = std::min(timeout, kTick);
  ::poll(polled.data(), polled.size(),
         static_cast<int>(absl::ToInt64Milliseconds(absl::Ceil(timeout, absl::Milliseconds(1)))));
  if (polled[0].revents != 0) {
    uint64_t count;
    [[maybe_unused]] ssize_t ignored = ::read(wake_fd_, &count, sizeof(count));
  }
}

void WorkerDaemon::ApplyDesired(const Desired& desired) {
  if (desired.coordinator_epoch() < coordinator_epoch_) {
    ANNEAL_LOG(ERROR) << "orders of an outdated coordinator refused"
                      << Field("epoch", desired.coordinator_epoch())
                      << Field("newest", coordinator_epoch_);
    link_.Reconnect();
    return;
  }
  if (desired.coordinator_epoch() > coordinator_epoch_) {
    coordinator_epoch_ = desired.coordinator_epoch();
    changed_ = true;
    // Fencing that is forgotten in a crash is none, so nothing is obeyed before this is on disk.
    if (absl::Status status = WriteMemory(); !status.ok()) {
      ANNEAL_LOG(ERROR) << "cannot remember the coordinator's epoch"
                        << Field("why", status.message());
      return;
    }
  }
  last_heard_ = clock_.MonotonicNow();
  is_wanted_ = desired.is_wanted();
  examiner_.Update(desired.has_examination() ? &desired.examination() : nullptr);
  wanted_.emplace();
  for (const DesiredTask& task : desired.tasks()) {
    absl::StatusOr<TaskKey> key = TaskKeyFromProto(task.id());
    if (!key.ok()) {
      ANNEAL_LOG(ERROR) << "a desired task is not understood" << Field("job", task.id().job())
                        << Field("why", key.status().message());
      continue;
    }
    wanted_->insert(*key);
    auto found = tasks_.find(*key);
    if (found == tasks_.end()) {
      found = tasks_.emplace(*key, MakeTask(*key, task)).first;
      changed_ = true;
    }
    found->second->Update(task);
  }
  for (const auto& [key, task] : tasks_) {
    if (wanted_->count(key) > 0) continue;
    task->Stop();
    // Nothing that an outdated trainer does counts any more, and its slot is waited for.
    if (IsSuperseded(key)) task->Kill();
  }
}

bool WorkerDaemon::IsSuperseded(const TaskKey& key) const {
  return std::any_of(wanted_->begin(), wanted_->end(), [&key](const TaskKey& wanted) {
    return wanted.job == key.job && wanted.kind == key.kind && wanted.generation > key.generation;
  });
}

std::unique_ptr<Task> WorkerDaemon::MakeTask(const TaskKey& key, const DesiredTask& desired) const {
  const bool outdated = std::any_of(tasks_.begin(), tasks_.end(), [&](const auto& entry) {
    const TaskKey& other = entry.first;
    return other.job == key.job && other.kind == key.kind && other.generation > key.generation;
  });
  if (outdated) {
    return std::make_unique<Task>(context_, key,
                                  absl::FailedPreconditionError("a newer generation is here"));
  }
  if (drain_start_.has_value()) {
    const absl::Status status = absl::UnavailableError("the worker is draining");
    return std::make_unique<Task>(context_, key, WithReason(status, "DRAINING"));
  }
  return std::make_unique<Task>(context_, key, desired);
}

void WorkerDaemon::StartWaitingTasks() {
  for (const auto& [key, task] : tasks_) {
    if (task->state() != Task::State::kWaiting || !MayStart(*task)) continue;
    TellBusySlots(task.get());
    task->Start();
    changed_ = true;
  }
}

bool WorkerDaemon::MayStart(const Task& task) const {
  int preparing = 0;
  for (const auto& [key, other] : tasks_) {
    if (!other->holds_slots()) continue;
    preparing += key.kind == protocol::TaskKind::kPrepare;
    for (const std::string& slot : task.slots()) {
      if (std::count(other->slots().begin(), other->slots().end(), slot) > 0) return false;
    }
  }
  return task.key().kind == protocol::TaskKind::kTrain || preparing < options_.prepare_slots;
}

void WorkerDaemon::AdvanceTasks() {
  for (const auto& [key, task] : tasks_) {
    const bool held = task->holds_slots();
    if (task->Advance()) changed_ = true;
    if (held && !task->holds_slots()) metrics_.CountEnd(key.kind, task->exit());
  }
}

void WorkerDaemon::TellBusySlots(const Task* starting) {
  std::set<std::string> busy;
  for (const auto& [key, task] : tasks_) {
    if (task.get() == starting || task->holds_slots())
      busy.insert(task->slots().begin(), task->slots().end());
  }
  examiner_.SetBusySlots(std::move(busy));
}

void WorkerDaemon::ForgetUndesired() {
  if (!wanted_.has_value()) return;
  for (auto it = tasks_.begin(); it != tasks_.end();) {
    if (wanted_->count(it->first) > 0 || it->second->holds_slots()) {
      ++it;
      continue;
    }
    it->second->Forget();
    metrics_.Forget(it->first);
    it = tasks_.erase(it);
    changed_ = true;
  }
}

void WorkerDaemon::AskForSpares() {
  if (!options_.spares || drain_start_.has_value()) return;
  const bool in_transition = std::any_of(tasks_.begin(), tasks_.end(), [](const auto& entry) {
    return entry.second->in_transition();
  });
  for (const SpareRequest& request :
       spares_.Due(keeper_.spares(), in_transition, clock_.MonotonicNow()))
    keeper_.KeepSpare(request);
}

void WorkerDaemon::StopOrphans() {
  if (clock_.MonotonicNow() - last_heard_ < options_.orphan_timeout) return;
  for (const auto& [key, task] : tasks_) task->Stop();
}

void WorkerDaemon::LeaveWhenIdle() {
  if (options_.exit_when_idle == absl::ZeroDuration() || leaving_) return;
  const absl::Duration now = clock_.MonotonicNow();
  const bool connected = link_.connected();
  // What a coordinator has said that is not heard any more holds nobody.
  if (!tasks_.empty() || (is_wanted_ && connected)) {
    idle_since_ = now;
    return;
  }
  if (now - idle_since_ < options_.exit_when_idle) return;
  ANNEAL_LOG(INFO) << "nothing to do: leaving"
                   << Field("idle", absl::FormatDuration(now - idle_since_))
                   << Field("coordinator_heard", connected);
  // Once: a second signal would end the draining early. The keeper remembers the first, also when
  // this daemon dies meanwhile.
  leaving_ = true;
  ::kill(::getppid(), SIGTERM);
}

bool WorkerDaemon::Drain() {
  const absl::Duration now = clock_.MonotonicNow();
  if (!keeper_.draining()) return false;
  if (!drain_start_.has_value()) {
    ANNEAL_LOG(INFO) << "draining";
    drain_start_ = now;
    changed_ = true;
  }
  for (const auto& [key, task] : tasks_) task->Pause();
  const bool busy = std::any_of(tasks_.begin(), tasks_.end(),
                                [](const auto& entry) { return entry.second->holds_slots(); });
  if (busy) {
    drained_since_.reset();
    if (now - *drain_start_ >= options_.drain_timeout) {
      for (const auto& [key, task] : tasks_) task->Stop();
    }
    return false;
  }
  if (!link_.connected()) {
    drained_since_.reset();
    // How tasks ended is worth waiting for: a checkpoint counts only once the coordinator knows it.
    return tasks_.empty() || now - *drain_start_ >= options_.drain_timeout;
  }
  if (!drained_since_.has_value()) drained_since_ = now;
  const bool told = tasks_.empty() && !changed_ && link_.sent();
  return told || now - *drained_since_ >= kLastWords;
}

void WorkerDaemon::SendObserved() {
  const absl::Duration now = clock_.MonotonicNow();
  if (now - last_sent_ < (changed_ ? kShortestInterval : kHeartbeat)) return;
  if (!HasSettled()) return;
  last_sent_ = now;
  changed_ = false;
  link_.Send(Observe());
}

bool WorkerDaemon::HasSettled() {
  settled_ = settled_ || clock_.MonotonicNow() - start_time_ >= kSettleTime ||
             std::none_of(tasks_.begin(), tasks_.end(), [](const auto& entry) {
               return entry.second->state() == Task::State::kStarting;
             });
  return settled_;
}

internal::Observed WorkerDaemon::Observe() const {
  internal::Observed observed;
  observed.set_worker(options_.name);
  observed.set_worker_incarnation(incarnation_);
  observed.set_coordinator_epoch(coordinator_epoch_);
  observed.set_prepare_slots(options_.prepare_slots);
  observed.set_data_address(options_.data_address);
  observed.set_version(std::string(Version()));
  observed.mutable_software()->insert(software_.begin(), software_.end());
  observed.set_draining(drain_start_.has_value());
  if (std::optional<internal::ExaminationResult> result = examiner_.result())
    *observed.mutable_examination() = *std::move(result);
  for (const v1::Slot& slot : slots_) *observed.add_slots() = slot;
  for (const auto& [key, task] : tasks_) {
    *observed.add_tasks() = task->Observe();
    if (!task->holds_slots()) continue;
    for (v1::Slot& slot : *observed.mutable_slots()) {
      if (std::count(task->slots().begin(), task->slots().end(), slot.id()) > 0)
        slot.set_job("jobs/" + key.job);
    }
  }
  return observed;
}

void WorkerDaemon::UpdateMetrics() {
  std::map<Task::State, int> by_state = {{Task::State::kWaiting, 0},
                                         {Task::State::kStarting, 0},
                                         {Task::State::kRunning, 0},
                                         {Task::State::kEnded, 0},
                                         {Task::State::kRefused, 0}};
  size_t busy = 0;
  for (const auto& [key, task] : tasks_) {
    ++by_state[task->state()];
    if (task->holds_slots()) busy += task->slots().size();
    if (const protocol::RankReport* report = task->rank_report()) metrics_.Count(key, *report);
  }
  for (const auto& [state, count] : by_state) metrics_.tasks.Set(count, {StateName(state)});
  metrics_.spares.Set(static_cast<double>(keeper_.spares().size()));
  metrics_.slots.Set(static_cast<double>(busy), {"busy"});
  metrics_.slots.Set(static_cast<double>(slots_.size() - busy), {"free"});
  const bool connected = link_.connected();
  metrics_.connected.Set(connected ? 1 : 0);
  metrics_.Expire();
  ready_.store(connected && !drain_start_.has_value(), std::memory_order_relaxed);
}

}  // namespace anneal
