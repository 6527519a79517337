#include "tests/simulation/sim_worker.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/format/json.h"
#include "gtest/gtest.h"

namespace anneal::simulation {
namespace {

constexpr absl::Duration kHeartbeat = absl::Seconds(2);
constexpr absl::Duration kShortestInterval = absl::Milliseconds(50);
constexpr int kMaxReports = 256;

TaskKey KeyOf(const internal::TaskId& id) {
  return {
      id.job(),
      id.kind() == internal::TaskId::KIND_TRAIN ? TaskKey::Kind::kTrain : TaskKey::Kind::kPrepare,
      id.generation(), id.rank()};
}

}  // namespace

void SimSession::Deliver(absl::Duration* last, std::function<void()> what) {
  const absl::Duration delay = world_.Chance(0.05)
                                   ? world_.Between(absl::Milliseconds(100), absl::Seconds(3))
                                   : world_.Between(absl::Milliseconds(1), absl::Milliseconds(50));
  *last = std::max(*last, world_.elapsed() + delay);
  world_.After(*last - world_.elapsed(), std::move(what));
}

void SimSession::Send(internal::Desired desired) {
  if (!open) return;
  Deliver(&last_down, [self = shared_from_this(), desired = std::move(desired)] {
    if (self->open) self->worker_.Receive(self, desired);
  });
}

void SimSession::Close(absl::Status) {
  if (!std::exchange(open, false)) return;
  world_.After(absl::Milliseconds(10),
               [self = shared_from_this()] { self->worker_.SessionBroken(self.get()); });
}

SimWorker::SimWorker(World& world, std::string name, int slots, ProcessModel& processes,
                     Connector connect, Sender send)
    : world_(world),
      name_(std::move(name)),
      slots_(slots),
      processes_(processes),
      connect_(std::move(connect)),
      send_(std::move(send)) {
  world_.After(absl::ZeroDuration(), [this] { Connect(); });
  Beat(incarnation_);
}

void SimWorker::Connect() {
  if (!up_ || partitioned_ || session_ != nullptr) return;
  session_ = connect_(*this);
  if (session_ == nullptr) {
    world_.After(world_.Between(absl::Milliseconds(200), absl::Seconds(2)), [this] { Connect(); });
  } else {
    SendNow();
  }
}

void SimWorker::Beat(int incarnation) {
  world_.After(kHeartbeat, [this, incarnation] {
    if (incarnation != incarnation_) return;
    SendNow();
    Beat(incarnation);
  });
}

void SimWorker::Changed() {
  if (std::exchange(send_pending_, true)) return;
  world_.After(kShortestInterval, [this] {
    send_pending_ = false;
    SendNow();
  });
}

void SimWorker::SendNow() {
  if (!up_ || partitioned_ || session_ == nullptr || !session_->open) return;
  session_->Deliver(&session_->last_up, [this, session = session_, observed = Observe()] {
    if (session->open) send_(session, observed);
  });
}

void SimWorker::SessionBroken(SimSession* session) {
  if (session_.get() != session) return;
  session_ = nullptr;
  world_.After(world_.Between(absl::Milliseconds(50), absl::Seconds(1)), [this] { Connect(); });
}

void SimWorker::SetPartitioned(bool partitioned) {
  partitioned_ = partitioned;
  if (session_ != nullptr) {
    // Nobody hears that it is gone: the coordinator finds out by the lease, the worker at the end.
    session_->open = false;
    session_ = nullptr;
  }
  if (!partitioned) Connect();
}

void SimWorker::CrashDaemon(absl::Duration down) {
  up_ = false;
  ++incarnation_;
  if (session_ != nullptr) session_->open = false;
  session_ = nullptr;
  world_.After(down, [this, incarnation = incarnation_] {
    if (incarnation != incarnation_) return;
    up_ = true;
    Connect();
    Beat(incarnation);
    StartWaiting();
  });
}

void SimWorker::CrashKeeper(absl::Duration down) {
  for (const TaskKey& key : running()) EndProcess(key, 9, 2, "WORKER_RESTARTED");
  CrashDaemon(down);
}

void SimWorker::Receive(const std::shared_ptr<SimSession>& session,
                        const internal::Desired& desired) {
  if (!up_ || partitioned_ || session != session_) return;
  if (desired.coordinator_epoch() < epoch_) {
    session->Close(absl::FailedPreconditionError("outdated"));
    return;
  }
  epoch_ = desired.coordinator_epoch();
  std::set<TaskKey> wanted;
  for (const internal::DesiredTask& task : desired.tasks()) {
    const TaskKey key = KeyOf(task.id());
    wanted.insert(key);
    const bool outdated = std::any_of(tasks_.begin(), tasks_.end(), [&](const auto& entry) {
      return entry.first.job == key.job && entry.first.kind == key.kind &&
             entry.first.generation > key.generation;
    });
    const auto [found, is_new] = tasks_.try_emplace(key);
    SimTask& mine = found->second;
    if (is_new) {
      mine.key = key;
      mine.slots.assign(task.slot_ids().begin(), task.slot_ids().end());
      mine.json = task.task_json();
      if (outdated) {
        mine.state = SimTask::State::kEnded;
        mine.exit.set_status_code(9);
        mine.exit.set_reason("REFUSED");
      }
      Changed();
    }
    mine.action = task.action();
    mine.peer = task.rendezvous();
    mine.acknowledged = std::max(mine.acknowledged, task.acknowledged_report());
  }
  std::vector<TaskKey> unwanted;
  for (const auto& [key, task] : tasks_) {
    if (wanted.count(key) == 0) unwanted.push_back(key);
  }
  for (const TaskKey& key : unwanted) {
    if (tasks_.at(key).state != SimTask::State::kRunning) {
      Remove(key);
    } else if (!std::exchange(tasks_.at(key).stopping, true)) {
      world_.After(world_.Between(absl::Milliseconds(50), absl::Seconds(2)),
                   [this, key] { EndProcess(key, 15, 1, "STOPPED"); });
    }
  }
  StartWaiting();
}

void SimWorker::StartWaiting() {
  if (!up_) return;
  for (auto& [key, task] : tasks_) {
    if (task.state != SimTask::State::kWaiting) continue;
    const bool taken = std::any_of(tasks_.begin(), tasks_.end(), [&task = task](const auto& other) {
      return other.second.state == SimTask::State::kRunning && !task.slots.empty() &&
             other.second.slots == task.slots;
    });
    if (taken) continue;
    task.state = SimTask::State::kRunning;
    Changed();
    world_.After(world_.Between(absl::Milliseconds(100), absl::Seconds(1)), [this, key = key] {
      if (FindRunning(key) != nullptr) processes_.Started(*this, key);
    });
  }
}

void SimWorker::Remove(const TaskKey& key) {
  tasks_.erase(key);
  Changed();
}

SimTask* SimWorker::FindRunning(const TaskKey& key) {
  const auto found = tasks_.find(key);
  if (found == tasks_.end() || found->second.state != SimTask::State::kRunning) return nullptr;
  return &found->second;
}

std::vector<TaskKey> SimWorker::running() const {
  std::vector<TaskKey> keys;
  for (const auto& [key, task] : tasks_) {
    if (task.state == SimTask::State::kRunning) keys.push_back(key);
  }
  return keys;
}

void SimWorker::Report(const TaskKey& key, const protocol::Report& report) {
  SimTask* task = FindRunning(key);
  ASSERT_NE(task, nullptr);
  task->reports.push_back(DumpJson(ToJson(report)));
  Changed();
}

void SimWorker::SetPhase(const TaskKey& key, const std::string& phase,
                         const std::string& rendezvous) {
  SimTask* task = FindRunning(key);
  ASSERT_NE(task, nullptr);
  task->phase = phase;
  if (!rendezvous.empty()) task->rendezvous = rendezvous;
  Changed();
}

void SimWorker::SetOverdue(const TaskKey& key, int64_t sequence) {
  SimTask* task = FindRunning(key);
  if (task == nullptr) return;
  task->overdue.emplace().set_sequence(sequence);
  Changed();
}

void SimWorker::EndProcess(const TaskKey& key, int signal, int status_code,
                           const std::string& reason) {
  SimTask* task = FindRunning(key);
  if (task == nullptr) return;
  task->state = SimTask::State::kEnded;
  task->exit.set_signal(signal);
  task->exit.set_exit_code(signal != 0 ? -1 : status_code != 0 ? 1 : 0);
  task->exit.set_status_code(status_code);
  task->exit.set_reason(reason);
  if (task->stopping) Remove(key);
  Changed();
  StartWaiting();
}

internal::Observed SimWorker::Observe() const {
  internal::Observed observed;
  observed.set_worker(name_);
  observed.set_worker_incarnation(incarnation_);
  observed.set_coordinator_epoch(epoch_);
  observed.set_prepare_slots(1);
  for (int s = 0; s < slots_; ++s) {
    v1::Slot& slot = *observed.add_slots();
    slot.set_id(absl::StrCat("cpu", s));
    slot.set_accelerator(v1::ResourceSpec::ACCELERATOR_CPU);
    slot.set_threads(1);
    for (const auto& [key, task] : tasks_) {
      if (task.state == SimTask::State::kRunning && !task.slots.empty() &&
          task.slots[0] == slot.id()) {
        slot.set_job("jobs/" + key.job);
      }
    }
  }
  for (const auto& [key, task] : tasks_) {
    internal::TaskObservation& shown = *observed.add_tasks();
    shown.mutable_id()->set_job(key.job);
    shown.mutable_id()->set_generation(key.generation);
    shown.mutable_id()->set_rank(key.rank);
    shown.mutable_id()->set_kind(key.kind == TaskKey::Kind::kTrain
                                     ? internal::TaskId::KIND_TRAIN
                                     : internal::TaskId::KIND_PREPARE);
    shown.set_phase(task.phase);
    shown.set_rendezvous(task.rendezvous);
    if (task.overdue.has_value()) *shown.mutable_overdue() = *task.overdue;
    const auto total = static_cast<int64_t>(task.reports.size());
    for (int64_t n = task.acknowledged + 1; n <= total && shown.reports_size() < kMaxReports; ++n) {
      internal::Report& report = *shown.add_reports();
      report.set_sequence(n);
      report.set_json(task.reports[n - 1]);
    }
    shown.set_state(
        task.state == SimTask::State::kRunning   ? internal::TaskObservation::STATE_RUNNING
        : task.state == SimTask::State::kWaiting ? internal::TaskObservation::STATE_STARTING
                                                 : internal::TaskObservation::STATE_EXITED);
    if (task.state == SimTask::State::kEnded) *shown.mutable_exit() = task.exit;
  }
  return observed;
}

}  // namespace anneal::simulation
