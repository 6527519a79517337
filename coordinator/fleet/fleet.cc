#include "coordinator/fleet/fleet.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "coordinator/fleet/task_builder.h"
#include "coordinator/lifecycle/proto_time.h"
#include "coordinator/lifecycle/step.h"

namespace anneal {
namespace {

constexpr int kMaxSlots = 256;
constexpr int kMaxTasks = 1024;
// A message with so many reports may leave more for the next one (fleet_service.proto).
constexpr int kReportsPerMessage = 256;

TaskKey KeyOf(const internal::TaskId& id) {
  return {
      id.job(),
      id.kind() == internal::TaskId::KIND_TRAIN ? TaskKey::Kind::kTrain : TaskKey::Kind::kPrepare,
      id.generation(), id.rank()};
}

internal::TaskId IdOf(const TaskKey& key) {
  internal::TaskId id;
  id.set_job(key.job);
  id.set_generation(key.generation);
  id.set_kind(key.kind == TaskKey::Kind::kTrain ? internal::TaskId::KIND_TRAIN
                                                : internal::TaskId::KIND_PREPARE);
  id.set_rank(key.rank);
  return id;
}

std::string CauseOf(const internal::TaskObservation& observation) {
  const internal::TaskExit& exit = observation.exit();
  if (observation.state() == internal::TaskObservation::STATE_REFUSED)
    return "its worker could not start it";
  if (exit.signal() != 0) {
    const char* name = sigabbrev_np(exit.signal());
    return absl::StrCat("killed by signal ", exit.signal(),
                        name == nullptr ? "" : absl::StrCat(" (SIG", name, ")"));
  }
  return exit.exit_code() == 0 ? "" : absl::StrCat("exit ", exit.exit_code());
}

// Threads for one prepare task: the worker's prepare slots share what its slots compute with.
int PrepareThreads(const internal::Observed& observed) {
  int threads = 0;
  for (const v1::Slot& slot : observed.slots()) threads += slot.threads();
  return std::max(1, threads / std::max(1, observed.prepare_slots()));
}

internal::DesiredTask::Action ActionFor(const TaskKey& key, const internal::JobRecord& record) {
  if (key.kind == TaskKey::Kind::kTrain) {
    if (record.stop_reason() != internal::STOP_REASON_UNSPECIFIED)
      return internal::DesiredTask::ACTION_PAUSE;
    if (record.finish_requested()) return internal::DesiredTask::ACTION_FINISH;
  }
  return internal::DesiredTask::ACTION_RUN;
}

std::string MakeTaskJson(const internal::JobRecord& record, const TaskKey& key,
                         const internal::Observed& observed) {
  if (key.kind == TaskKey::Kind::kPrepare)
    return DumpJson(ToJson(MakePrepareTask(record, PrepareThreads(observed))));
  return DumpJson(ToJson(MakeTrainTask(record, key.rank)));
}

}  // namespace

bool IsWorkerName(absl::string_view name) {
  if (name.empty() || name.size() > 63 || name[0] == '-' || name[0] == '.') return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '.' || c == '-';
  });
}

Fleet::Fleet(FleetOptions options, int64_t epoch, absl::Duration now)
    : options_(options), epoch_(epoch), start_(now) {}

void Fleet::Restore(const std::vector<internal::WorkerRecord>& records, absl::Duration now) {
  for (const internal::WorkerRecord& record : records) {
    WorkerState& worker = workers_[record.name()];
    worker.record = record;
    worker.last_heard = now;
    for (const internal::SlotRecord& slot : record.slots()) {
      v1::Slot& known = *worker.observed.add_slots();
      known.set_id(slot.id());
      known.set_accelerator(slot.accelerator());
      known.set_threads(slot.threads());
    }
  }
}

absl::Status Fleet::CheckMessage(const internal::Observed& observed) const {
  if (!IsWorkerName(observed.worker())) {
    return absl::InvalidArgumentError(
        absl::StrCat("worker name '", observed.worker(),
                     "' is not [a-z0-9][a-z0-9.-]{0,62}: give another with --name"));
  }
  if (observed.coordinator_epoch() > epoch_) {
    return absl::FailedPreconditionError(absl::StrCat(
        "worker ", observed.worker(), " has seen coordinator epoch ", observed.coordinator_epoch(),
        "; this coordinator is at ", epoch_, " and must not give orders: stop it, if another has ",
        "started since; if not, start it again once the clock of its machine is right"));
  }
  const auto known = workers_.find(observed.worker());
  if (known != workers_.end() &&
      observed.worker_incarnation() < known->second.record.incarnation()) {
    return absl::FailedPreconditionError(
        absl::StrCat("worker ", observed.worker(), " incarnation ", observed.worker_incarnation(),
                     " is older than ", known->second.record.incarnation(),
                     ": one of this name has started since (by the clocks of their machines); give "
                     "each worker a --name of its own"));
  }
  if (observed.slots_size() > kMaxSlots || observed.tasks_size() > kMaxTasks) {
    return absl::InvalidArgumentError(
        absl::StrCat("worker ", observed.worker(), " shows ", observed.slots_size(), " slots and ",
                     observed.tasks_size(), " tasks; at most ", kMaxSlots, " and ", kMaxTasks));
  }
  std::set<absl::string_view> ids;
  for (const v1::Slot& slot : observed.slots()) {
    if (slot.id().empty() || !ids.insert(slot.id()).second) {
      return absl::InvalidArgumentError(absl::StrCat("worker ", observed.worker(), ": slot id '",
                                                     slot.id(), "' is empty or given twice"));
    }
  }
  return absl::OkStatus();
}

void Fleet::WorkerSynced(std::shared_ptr<FleetSession> session, const internal::Observed& observed,
                         const PlacedJobs& placed, absl::Duration now, absl::Time wall_now,
                         FleetNews* news) {
  if (absl::Status status = CheckMessage(observed); !status.ok()) {
    ANNEAL_LOG(WARNING) << "worker refused" << Field("worker", observed.worker())
                        << Field("why", status.message());
    session->Close(status);
    return;
  }
  WorkerState& worker = workers_[observed.worker()];
  if (worker.record.name().empty()) {
    worker.record.set_name(observed.worker());
    *worker.record.mutable_register_time() = TimestampOf(wall_now);
    worker.record_changed = true;
  }
  if (worker.record.incarnation() != observed.worker_incarnation()) {
    worker.record.set_incarnation(observed.worker_incarnation());
    worker.record_changed = true;
  }
  if (worker.record.left()) {
    worker.record.set_left(false);
    worker.record_changed = true;
  }
  if (worker.session != session) {
    ANNEAL_LOG(INFO) << "worker connected" << Field("worker", observed.worker())
                     << Field("slots", observed.slots_size())
                     << Field("incarnation", observed.worker_incarnation());
    if (worker.session != nullptr)
      worker.session->Close(absl::AbortedError("the worker has opened a newer stream"));
    worker.session = std::move(session);
    worker.last_sent.clear();
    roster_changed_ = true;
    // What the worker says on a new stream it says after all that the old one has brought it.
    for (auto& [key, memory] : worker.tasks) {
      if (memory.unwanted_since.has_value())
        memory.unwanted_since = now - options_.release_unseen_after;
    }
  }
  worker.last_heard = now;
  worker.last_sync = wall_now;
  TakeFacts(worker, observed);
  if (observed.has_examination() && examination_sink_ != nullptr)
    examination_sink_(observed.worker(), observed.examination());

  RefreshTasks(worker, placed, now);
  std::set<TaskKey> present;
  for (const internal::TaskObservation& observation : observed.tasks()) {
    const TaskKey key = KeyOf(observation.id());
    present.insert(key);
    const auto found = worker.tasks.find(key);
    // A task nobody here wants any more; its worker stops it because desired state does not list
    // it. Should it be newer than what we know, no other may have its number.
    if (found == worker.tasks.end()) {
      news->items.push_back(FleetNews::Fact{key.job, LostTaskFound{key}});
      continue;
    }
    TakeObservation(observation, key, found->second, news);
    if (!found->second.overdue.has_value() || found->second.unwanted_since.has_value()) continue;
    if (std::optional<TaskHung> hung = FindHung(placed.Get(key.job)))
      news->items.push_back(FleetNews::Fact{key.job, *std::move(hung)});
  }
  FindAbsent(worker, present, now, news);
}

void Fleet::TakeFacts(WorkerState& worker, const internal::Observed& observed) {
  internal::Observed facts = observed;
  facts.clear_tasks();
  facts.clear_examination();
  worker.has_tasks = observed.tasks_size() > 0;
  worker.desired_changed = true;
  if (!worker.lost && facts.SerializeAsString() == worker.observed.SerializeAsString()) return;
  worker.lost = false;
  worker.observed = std::move(facts);
  roster_changed_ = true;
  RememberSlots(worker);
}

void Fleet::RefreshTasks(WorkerState& worker, const PlacedJobs& placed, absl::Duration now) {
  std::set<TaskKey> wanted;
  for (const std::string& id : placed.On(worker.record.name())) {
    const internal::JobRecord& record = placed.Get(id);
    for (const TaskPlace& place : DesiredTasks(record)) {
      if (place.worker == worker.record.name()) wanted.insert(place.task);
    }
    for (const TaskPlace& place : OpenTasks(record)) {
      if (place.worker != worker.record.name()) continue;
      const auto [entry, is_new] = worker.tasks.try_emplace(place.task);
      TaskMemory& memory = entry->second;
      if (is_new && place.task.kind == TaskKey::Kind::kTrain) {
        const internal::RankRecord& rank = record.train().ranks(place.task.rank);
        roster_changed_ = true;
        memory.slot_ids = {rank.slot_id()};
        memory.observed = rank.observed();
        memory.received = memory.durable = rank.applied_report();
      } else if (is_new) {
        memory.observed = record.prepare().observed();
        memory.received = memory.durable = record.prepare().applied_report();
      }
      if (memory.task_json.empty() && wanted.count(place.task) > 0) {
        memory.task_json = MakeTaskJson(record, place.task, worker.observed);
      }
    }
  }
  for (auto& [key, memory] : worker.tasks) {
    if (wanted.count(key) > 0) {
      memory.unwanted_since.reset();
    } else if (!memory.unwanted_since.has_value()) {
      memory.unwanted_since = now;
    }
  }
}

void Fleet::TakeObservation(const internal::TaskObservation& observation, const TaskKey& key,
                            TaskMemory& memory, FleetNews* news) {
  const bool phase_changed = memory.phase != observation.phase();
  if (!memory.observed || phase_changed || memory.rendezvous != observation.rendezvous()) {
    memory.observed = true;
    memory.phase = observation.phase();
    memory.rendezvous = observation.rendezvous();
    news->items.push_back(
        FleetNews::Fact{key.job, TaskObserved{key, memory.phase, memory.rendezvous}});
    if (phase_changed) news->items.push_back(FleetNews::PhaseNews{key, memory.phase});
  }
  memory.overdue.reset();
  if (observation.has_overdue()) memory.overdue = observation.overdue();
  for (const internal::Report& report : observation.reports())
    TakeReport(report, key, memory, news);
  const bool over = observation.state() == internal::TaskObservation::STATE_EXITED ||
                    observation.state() == internal::TaskObservation::STATE_REFUSED;
  // The last words come before the end, also when they do not fit one message.
  if (!over || memory.ended || observation.reports_size() >= kReportsPerMessage) return;
  memory.ended = true;
  const internal::TaskExit& exit = observation.exit();
  TaskEnded ended{.task = key,
                  .cause = CauseOf(observation),
                  .code = exit.status_code(),
                  .reason = exit.reason(),
                  .message = exit.message(),
                  .log_tail = exit.log_tail(),
                  .signal = exit.signal()};
  news->items.push_back(FleetNews::Fact{key.job, std::move(ended)});
}

void Fleet::TakeReport(const internal::Report& report, const TaskKey& key, TaskMemory& memory,
                       FleetNews* news) {
  if (report.sequence() <= memory.received) return;
  memory.received = report.sequence();
  absl::StatusOr<Json> json = ParseJson(report.json());
  absl::StatusOr<protocol::Report> parsed =
      json.ok() ? protocol::ReportFromJson(*json) : json.status();
  if (!parsed.ok()) {
    // It would be no better the next time. A missing result still fails the job, through the
    // process's end.
    ANNEAL_LOG(ERROR) << "report dropped" << Field("job", key.job)
                      << Field("generation", key.generation) << Field("rank", key.rank)
                      << Field("sequence", report.sequence())
                      << Field("why", parsed.status().message());
    return;
  }
  if (parsed->step.has_value()) {
    if (key.rank == 0) news->items.push_back(FleetNews::StepNews{key, *parsed->step});
    return;
  }
  news->items.push_back(
      FleetNews::Fact{key.job, TaskReported{key, report.sequence(), *std::move(parsed)}});
}

void Fleet::FindAbsent(WorkerState& worker, const std::set<TaskKey>& present, absl::Duration now,
                       FleetNews* news) {
  for (auto it = worker.tasks.begin(); it != worker.tasks.end();) {
    const auto& [key, memory] = *it;
    if (present.count(key) > 0) {
      ++it;
    } else if (!memory.unwanted_since.has_value()) {
      // Not yet accepted, unless the worker has shown it before.
      if (memory.observed && !memory.ended) {
        const std::string message =
            absl::StrCat("worker ", worker.record.name(), " no longer has it");
        news->items.push_back(FleetNews::Fact{key.job, TaskLost{key, message}});
      }
      ++it;
    } else if (memory.observed || now - *memory.unwanted_since >= options_.release_unseen_after) {
      news->items.push_back(FleetNews::Fact{key.job, TaskReleased{key}});
      roster_changed_ |= !memory.slot_ids.empty();
      it = worker.tasks.erase(it);
    } else {
      ++it;
    }
  }
}

void Fleet::SessionClosed(const std::shared_ptr<FleetSession>& session) {
  for (auto& [name, worker] : workers_) {
    if (worker.session != session) continue;
    worker.session = nullptr;
    worker.record.set_left(worker.observed.draining() && !worker.has_tasks);
    worker.record_changed |= worker.record.left();
    roster_changed_ = true;
    ANNEAL_LOG(INFO) << "worker disconnected" << Field("worker", name)
                     << Field("left", worker.record.left());
  }
}

void Fleet::CheckLeases(const PlacedJobs& placed, absl::Duration now, FleetNews* news) {
  if (now < start_ + options_.start_grace) return;
  for (auto& [name, worker] : workers_) {
    if (worker.lost || now < worker.last_heard + options_.lease) continue;
    ANNEAL_LOG(WARNING) << "worker lost" << Field("worker", name);
    worker.lost = true;
    roster_changed_ = true;
  }
  for (const auto& [name, jobs] : placed.by_worker()) {
    const auto worker = workers_.find(name);
    if (worker != workers_.end() && !worker->second.lost) continue;
    const std::string message = absl::StrCat("worker ", name, " was not heard from for ",
                                             absl::FormatDuration(options_.lease));
    for (const std::string& id : jobs) {
      for (const TaskPlace& place : OpenTasks(placed.Get(id))) {
        if (place.worker == name)
          news->items.push_back(FleetNews::Fact{id, TaskLost{place.task, message}});
      }
    }
  }
}

internal::Desired Fleet::MakeDesired(const WorkerState& worker, const PlacedJobs& placed) const {
  internal::Desired desired;
  desired.set_coordinator_epoch(epoch_);
  desired.set_draining(worker.record.drained());
  desired.set_is_wanted(IsWanted(worker));
  if (const auto wanted = examinations_.find(worker.record.name()); wanted != examinations_.end())
    *desired.mutable_examination() = wanted->second;
  for (const auto& [key, memory] : worker.tasks) {
    if (memory.unwanted_since.has_value()) continue;
    const internal::JobRecord& record = placed.Get(key.job);
    internal::DesiredTask& task = *desired.add_tasks();
    *task.mutable_id() = IdOf(key);
    task.set_action(ActionFor(key, record));
    for (const std::string& slot : memory.slot_ids) task.add_slot_ids(slot);
    task.set_task_json(memory.task_json);
    task.set_acknowledged_report(memory.durable);
    if (key.kind != TaskKey::Kind::kTrain) continue;
    if (key.rank > 0) task.set_rendezvous(record.train().rendezvous());
    task.set_stacks_requests(record.train().stacks_requests());
  }
  return desired;
}

void Fleet::SendDesired(PlacedJobs& placed, absl::Duration now) {
  for (const std::string& name : placed.TakeTouched()) {
    const auto touched = workers_.find(name);
    if (touched != workers_.end()) touched->second.desired_changed = true;
  }
  for (auto& [name, worker] : workers_) {
    const bool due = now >= worker.last_sent_at + options_.send_every;
    if (!std::exchange(worker.desired_changed, false) && !due) continue;
    RefreshTasks(worker, placed, now);
    if (worker.session == nullptr) continue;
    internal::Desired desired = MakeDesired(worker, placed);
    std::string bytes = desired.SerializeAsString();
    if (bytes == worker.last_sent && now < worker.last_sent_at + options_.send_every) continue;
    worker.session->Send(std::move(desired));
    worker.last_sent = std::move(bytes);
    worker.last_sent_at = now;
  }
}

bool Fleet::IsWanted(const WorkerState& worker) const {
  if (worker.record.drained()) return false;
  return std::any_of(
      worker.observed.slots().begin(), worker.observed.slots().end(), [this](const v1::Slot& slot) {
        return slot.accelerator() == v1::ResourceSpec::ACCELERATOR_GPU ? gpu_wanted_ : cpu_wanted_;
      });
}

void Fleet::SetWanted(bool cpu, bool gpu) {
  if (cpu == cpu_wanted_ && gpu == gpu_wanted_) return;
  cpu_wanted_ = cpu;
  gpu_wanted_ = gpu;
  for (auto& [name, worker] : workers_) worker.desired_changed = true;
}

void Fleet::Examine(std::map<std::string, internal::Examination> wanted,
                    FleetInbox::ExaminationSink sink) {
  examinations_ = std::move(wanted);
  examination_sink_ = std::move(sink);
  for (auto& [name, worker] : workers_) worker.desired_changed = true;
}

void Fleet::MarkDurable() {
  for (auto& [name, worker] : workers_) {
    for (auto& [key, memory] : worker.tasks) {
      worker.desired_changed |= memory.durable != memory.received;
      memory.durable = memory.received;
    }
  }
}

void Fleet::RollBack() {
  for (auto& [name, worker] : workers_) {
    for (auto& [key, memory] : worker.tasks) {
      memory.received = memory.durable;
      memory.phase.clear();
      memory.rendezvous.clear();
      memory.ended = false;
    }
    worker.record_changed = true;
  }
}

}  // namespace anneal
