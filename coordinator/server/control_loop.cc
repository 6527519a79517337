#include "coordinator/server/control_loop.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "coordinator/lifecycle/blame.h"
#include "coordinator/lifecycle/proto_time.h"
#include "coordinator/lifecycle/report_messages.h"
#include "coordinator/lifecycle/shown_job.h"
#include "coordinator/lifecycle/states.h"

namespace anneal {
namespace {

// The longest time between turns: leases, deadlines and flushes are looked at this often.
constexpr absl::Duration kTick = absl::Milliseconds(250);
// Leases and deadlines, which are of seconds, are looked at this often at most.
constexpr absl::Duration kCheckEvery = absl::Milliseconds(100);
// The times of syncs that the roster shows are at most this old.
constexpr absl::Duration kRosterEvery = absl::Milliseconds(500);
constexpr absl::Duration kFlushEvery = absl::Seconds(1);
constexpr absl::Duration kProgressEvery = absl::Milliseconds(500);
// A disk may be slow; a loop that takes longer than this for one turn is taken for dead.
constexpr absl::Duration kStuckAfter = absl::Minutes(2);

}  // namespace

absl::StatusOr<std::unique_ptr<ControlLoop>> ControlLoop::Create(
    ControlLoopParts parts, const ControlLoopOptions& options) {
  ANNEAL_ASSIGN_OR_RETURN(const int64_t epoch, parts.store.NextEpoch(parts.clock.TimeNow()));
  std::unique_ptr<ControlLoop> loop(new ControlLoop(parts, options, epoch));
  ANNEAL_RETURN_IF_ERROR(loop->Load());
  return loop;
}

ControlLoop::ControlLoop(ControlLoopParts parts, const ControlLoopOptions& options, int64_t epoch)
    : parts_(parts),
      grow_after_(options.grow_after),
      epoch_(epoch),
      last_turn_(parts.clock.MonotonicNow()),
      fleet_(options.fleet, epoch, parts.clock.MonotonicNow()),
      meters_(parts.metrics, parts.registry) {}

ControlLoop::~ControlLoop() { Stop(); }

absl::Status ControlLoop::Load() {
  ANNEAL_ASSIGN_OR_RETURN(std::vector<internal::JobRecord> records, parts_.store.LoadJobs());
  ANNEAL_RETURN_IF_ERROR(SkipLostGenerations(records));
  for (internal::JobRecord& record : records) {
    PackOrigins(&record);
    OpenSlotAccountOf(record);
    auto shared = std::make_shared<const internal::JobRecord>(std::move(record));
    Keep(shared);
    if (!shared->request_id().empty()) requests_[RequestKey(*shared)] = shared->id();
    if (IsTerminal(shared->job().state())) continue;
    ANNEAL_ASSIGN_OR_RETURN(StepMetricsWriter::Totals totals,
                            parts_.steps.ReadTotals(shared->id()));
    meters_.Start(*shared, totals, parts_.clock.TimeNow());
  }
  ANNEAL_ASSIGN_OR_RETURN(std::vector<internal::WorkerRecord> workers, parts_.store.LoadWorkers());
  fleet_.Restore(workers, parts_.clock.MonotonicNow());
  ANNEAL_LOG(INFO) << "catalog loaded" << Field("epoch", epoch_) << Field("jobs", jobs_.size())
                   << Field("live", live_.size()) << Field("workers", workers.size());
  parts_.metrics.epoch.Set(static_cast<double>(epoch_));
  parts_.metrics.CountJobs(counts_);
  Publish();
  return absl::OkStatus();
}

absl::Status ControlLoop::SkipLostGenerations(std::vector<internal::JobRecord>& records) {
  std::set<std::string> live;
  for (const internal::JobRecord& record : records) {
    if (!IsTerminal(record.job().state())) live.insert(record.id());
  }
  const std::map<std::string, int64_t> found = parts_.outputs.FindGenerations(live);
  CatalogChange change;
  for (internal::JobRecord& record : records) {
    const auto newest = found.find(record.id());
    if (newest == found.end()) continue;
    const LostTaskFound event{{record.id(), TaskKey::Kind::kTrain, newest->second}};
    ANNEAL_ASSIGN_OR_RETURN(StepResult result, Step(record, event, parts_.clock.TimeNow()));
    if (!result.changed) continue;
    ANNEAL_LOG(WARNING) << "the catalog was restored: it does not know a generation"
                        << Field("job", record.id()) << Field("known", record.job().generation())
                        << Field("found", newest->second);
    record = std::move(result.record);
    change.jobs.push_back(std::make_shared<internal::JobRecord>(record));
    for (v1::JobEvent& e : result.events) change.events.emplace_back(record.id(), std::move(e));
  }
  return change.empty() ? absl::OkStatus() : parts_.store.Commit(change);
}

void ControlLoop::Start() {
  answers_.Start();
  thread_ = Thread("control-loop", [this] { Run(); });
}

void ControlLoop::Stop() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  thread_.Join();
  answers_.Stop();
}

absl::Status ControlLoop::live() const {
  absl::MutexLock lock(&mu_);
  const absl::Duration since = parts_.clock.MonotonicNow() - last_turn_;
  if (since < kStuckAfter) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("the control loop has not turned for ", absl::FormatDuration(since)));
}

absl::Status ControlLoop::ready() const {
  absl::MutexLock lock(&mu_);
  return Annotate(last_commit_, "the catalog cannot be written");
}

void ControlLoop::Post(Message message) {
  {
    absl::MutexLock lock(&mu_);
    if (!stopping_) {
      queue_.push_back(std::move(message));
      return;
    }
  }
  const absl::Status stopped = absl::UnavailableError("the coordinator is stopping");
  if (auto* create = std::get_if<CreateMessage>(&message)) create->reply(stopped);
  if (auto* change = std::get_if<ChangeMessage>(&message)) change->reply(stopped);
  if (auto* remove = std::get_if<DeleteMessage>(&message)) remove->reply(stopped);
  if (auto* drain = std::get_if<DrainMessage>(&message)) drain->reply(stopped);
}

void ControlLoop::CreateJob(internal::JobRecord record, std::string call, JobReply reply) {
  Post(CreateMessage{std::move(record), std::move(call), std::move(reply)});
}
void ControlLoop::ChangeJob(const std::string& project, const std::string& id, LifecycleEvent event,
                            std::string call, JobReply reply) {
  Post(ChangeMessage{project, id, std::move(event), std::move(call), std::move(reply)});
}
void ControlLoop::DeleteJob(const std::string& project, const std::string& id, std::string call,
                            JobReply reply) {
  Post(DeleteMessage{project, id, std::move(call), std::move(reply)});
}
void ControlLoop::WorkerSynced(std::shared_ptr<FleetSession> session, internal::Observed observed) {
  Post(SyncMessage{std::move(session), std::move(observed)});
}
void ControlLoop::SessionClosed(std::shared_ptr<FleetSession> session) {
  Post(ClosedMessage{std::move(session)});
}
void ControlLoop::SetDrained(const std::string& worker, bool drained, std::string call,
                             WorkerReply reply) {
  Post(DrainMessage{worker, drained, std::move(call), std::move(reply)});
}
void ControlLoop::Examine(std::map<std::string, internal::Examination> wanted,
                          ExaminationSink sink) {
  Post(ExamineMessage{std::move(wanted), std::move(sink)});
}

void ControlLoop::Run() {
  while (true) {
    std::vector<Message> messages;
    bool stopping = false;
    {
      absl::MutexLock lock(&mu_);
      const auto has_work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        return stopping_ || !queue_.empty();
      };
      const absl::Duration plan_in = plan_due_ ? next_plan_ - parts_.clock.MonotonicNow() : kTick;
      parts_.clock.AwaitWithTimeout(&mu_, absl::Condition(&has_work),
                                    std::clamp(plan_in, absl::ZeroDuration(), kTick));
      messages.swap(queue_);
      stopping = stopping_;
    }
    RunTurn(std::move(messages));
    if (stopping) return;
  }
}

void ControlLoop::TakeTurn() {
  std::vector<Message> messages;
  {
    absl::MutexLock lock(&mu_);
    messages.swap(queue_);
  }
  RunTurn(std::move(messages));
}

void ControlLoop::RunTurn(std::vector<Message> messages) {
  Turn turn;
  turn.now = parts_.clock.TimeNow();
  turn.monotonic_now = parts_.clock.MonotonicNow();
  for (Message& message : messages) {
    std::visit([&](auto& m) { Handle(m, turn); }, message);
  }
  CheckDeadlines(turn);
  Schedule(turn);
  BookUsage(turn);
  const absl::Status status = Commit(turn);
  parts_.store.Release();  // if what it was asked for came to nothing
  {
    absl::MutexLock lock(&mu_);
    last_turn_ = turn.monotonic_now;
    last_commit_ = status;
  }
  if (status.ok()) {
    Install(turn);
  } else {
    ANNEAL_LOG(ERROR) << "turn dropped" << Field("why", status.ToString());
    parts_.metrics.failed_turns.Increment();
    fleet_.RollBack();
    fleet_heard_ = true;  // what was planned is not so
  }
  ShowProgress(turn);
  Publish();
  std::vector<Answers::Answer> answers;
  answers.reserve(turn.replies.size());
  for (const auto& reply : turn.replies) answers.push_back(reply(status));
  answers_.Give(std::move(answers));
  fleet_.SendDesired(placed_, turn.monotonic_now);
  for (const std::shared_ptr<FleetSession>& session : turn.read_next) session->ReadNext();
  parts_.metrics.turn_seconds.Observe(
      absl::ToDoubleSeconds(parts_.clock.MonotonicNow() - turn.monotonic_now));
}

const internal::JobRecord* ControlLoop::Find(const std::string& id, const Turn& turn) const {
  if (const auto changed = turn.changed.find(id); changed != turn.changed.end())
    return changed->second.get();
  const auto found = jobs_.find(id);
  return found == jobs_.end() ? nullptr : found->second.get();
}

absl::Status ControlLoop::Apply(const std::string& id, const LifecycleEvent& event, Turn& turn) {
  const internal::JobRecord* before = Find(id, turn);
  if (before == nullptr) return NoSuchJob(id);
  internal::JobRecord with_progress;
  if (std::holds_alternative<TaskEnded>(event) || std::holds_alternative<TaskLost>(event) ||
      std::holds_alternative<TaskHung>(event)) {
    // What a failure costs depends on how far the job had come.
    with_progress = *before;
    meters_.Overlay(with_progress, turn.now);
    before = &with_progress;
  }
  const auto mine = turn.changed.find(id);
  // What this turn has copied already is changed where it is; but a report may make a second step
  // necessary from the record as it was.
  const bool in_place = mine != turn.changed.end() && before == mine->second.get() &&
                        !std::holds_alternative<TaskReported>(event);
  ANNEAL_ASSIGN_OR_RETURN(StepResult result, in_place ? StepInPlace(*mine->second, event, turn.now)
                                                      : Step(*before, event, turn.now));
  if (!result.changed) return absl::OkStatus();
  if (result.publishes_output) {
    v1::JobResult& outputs = *result.record.mutable_job()->mutable_result();
    const absl::StatusOr<int64_t> bytes =
        parts_.outputs.Publish(id, result.record.train().generation(), outputs);
    if (!bytes.ok()) {
      const TaskReported& reported = std::get<TaskReported>(event);
      return Apply(id, OutputLost{reported.task, reported.sequence, bytes.status().ToString()},
                   turn);
    }
    outputs.set_output_bytes(*bytes);
  }
  for (v1::JobEvent& e : result.events) {
    if (e.has_state_change()) {
      ANNEAL_LOG(INFO) << "job state changed" << Field("job", id)
                       << Field("from", StateName(e.state_change().from()))
                       << Field("to", StateName(e.state_change().to()))
                       << Field("reason", e.state_change().reason())
                       << Field("generation", e.generation()) << CallField(turn.call);
    }
    NoteFault(e, result.record, turn.now);
    turn.change.events.emplace_back(id, std::move(e));
  }
  Book(result.record, result.slot_time, turn);
  if (std::holds_alternative<SlotsAssigned>(event))
    meters_.GoBack(id, result.record.train().first_step());
  if (in_place) {
    *mine->second = std::move(result.record);
  } else {
    turn.changed[id] = std::make_shared<internal::JobRecord>(std::move(result.record));
  }
  return absl::OkStatus();
}

void ControlLoop::Handle(SyncMessage& message, Turn& turn) {
  FleetNews news;
  fleet_heard_ = true;
  turn.read_next.push_back(message.session);
  fleet_.WorkerSynced(std::move(message.session), message.observed, placed_, turn.monotonic_now,
                      turn.now, &news);
  TakeNews(news, turn);
}

void ControlLoop::Handle(ClosedMessage& message, Turn&) {
  fleet_heard_ = true;
  fleet_.SessionClosed(message.session);
}

void ControlLoop::NoteFault(const v1::JobEvent& event, const internal::JobRecord& record,
                            absl::Time now) {
  const v1::AttemptEnd& end = event.attempt_end();
  // A lost worker gets nothing anyway; one that lets trainers take steps is good.
  if (event.has_attempt_end() && end.blame() != BlameName(Blame::kUser) &&
      end.step() <= record.train().first_step() && record.job().state_reason() != "WORKER_LOST") {
    fleet_.CountFault(end.worker(), now);
  }
}

void ControlLoop::TakeNews(const FleetNews& news, Turn& turn) {
  for (const auto& item : news.items) {
    if (const auto* step = std::get_if<FleetNews::StepNews>(&item)) {
      TakeStep(*step, turn);
    } else if (const auto* phase = std::get_if<FleetNews::PhaseNews>(&item)) {
      if (phase->task.rank == 0) meters_.TakePhase(phase->task.job, phase->phase, turn.now);
    } else {
      const FleetNews::Fact& fact = std::get<FleetNews::Fact>(item);
      // The last processes of a job may outlive its deletion.
      const internal::JobRecord* record = Find(fact.job, turn);
      if (record == nullptr) continue;
      const auto* reported = std::get_if<TaskReported>(&fact.event);
      // What an outdated generation still says is not counted.
      if (reported != nullptr && reported->task.kind == TaskKey::Kind::kTrain &&
          reported->task.generation != record->train().generation()) {
        reported = nullptr;
      }
      if (reported != nullptr) meters_.TakeReport(fact.job, reported->report, turn.now);
      if (reported != nullptr && reported->report.evaluation.has_value()) {
        parts_.steps.AddEvaluation(fact.job, reported->task.generation,
                                   EvaluationFrom(*reported->report.evaluation));
      }
      // Facts are never refused.
      ANNEAL_CHECK_OK(Apply(fact.job, fact.event, turn));
    }
  }
}

void ControlLoop::TakeStep(const FleetNews::StepNews& news, Turn& turn) {
  const internal::JobRecord* record = Find(news.task.job, turn);
  if (record == nullptr || record->train().generation() != news.task.generation) return;
  // The first step says more surely than a phase that training has begun.
  if (record->job().state() == v1::JOB_STATE_STARTING) {
    ANNEAL_CHECK_OK(Apply(news.task.job, TaskObserved{news.task, "train", ""}, turn));
  }
  meters_.TakeStep(news.task.job, news.report, turn.now);
  parts_.steps.AddStep(news.task.job, StepMetricsFrom(news.report, news.task.generation));
}

void ControlLoop::CheckDeadlines(Turn& turn) {
  if (turn.monotonic_now < last_check_ + kCheckEvery) return;
  last_check_ = turn.monotonic_now;
  FleetNews lost;
  fleet_.CheckLeases(placed_, turn.monotonic_now, &lost);
  fleet_heard_ = fleet_heard_ || !lost.items.empty();
  TakeNews(lost, turn);
  for (const std::string& id : deadlines_.Due(turn.now)) ANNEAL_CHECK_OK(Apply(id, Tick{}, turn));
  meters_.RemoveEndedSeries(turn.monotonic_now);
}

absl::Status ControlLoop::Commit(Turn& turn) {
  for (const auto& [id, record] : turn.changed) {
    meters_.Overlay(*record, turn.now);
    turn.change.jobs.push_back(record);
  }
  turn.change.workers = fleet_.TakeChangedRecords();
  // Steps go first: a report may be acknowledged only when all before it are on disk.
  if (!turn.change.empty() || turn.monotonic_now >= last_flush_ + kFlushEvery) {
    ANNEAL_RETURN_IF_ERROR(parts_.steps.Flush());
    last_flush_ = turn.monotonic_now;
  }
  if (!turn.change.empty()) ANNEAL_RETURN_IF_ERROR(parts_.store.Commit(turn.change));
  if (!parts_.steps.has_unflushed()) fleet_.MarkDurable();
  return absl::OkStatus();
}

void ControlLoop::Install(Turn& turn) {
  for (auto& [id, record] : turn.changed) {
    const bool is_new = jobs_.count(id) == 0;
    Keep(record);
    if (is_new) meters_.Start(*record, {}, turn.now);
    meters_.TakeRecord(*record, turn.now);
    if (IsTerminal(record->job().state())) meters_.End(id, turn.monotonic_now);
  }
  InstallUsage(turn);
  requests_.merge(turn.new_requests);
  for (const std::string& id : turn.change.deleted_jobs) {
    const auto found = jobs_.find(id);
    if (!found->second->request_id().empty()) {
      requests_.erase(RequestKey(*found->second));
    }
    --counts_[found->second->job().state()];
    jobs_.erase(found);
    unpublished_deletions_.push_back(id);
    if (absl::Status status = parts_.steps.DeleteJob(id); !status.ok()) {
      // Rows of a job that is gone are never read; they only take space.
      ANNEAL_LOG(WARNING) << "step metrics stay behind" << Field("job", id)
                          << Field("why", status.message());
    }
  }
}

void ControlLoop::Keep(const std::shared_ptr<const internal::JobRecord>& record) {
  std::shared_ptr<const internal::JobRecord>& kept = jobs_[record->id()];
  if (kept != nullptr) --counts_[kept->job().state()];
  kept = record;
  ++counts_[record->job().state()];
  unpublished_.push_back(record);
  if (IsTerminal(record->job().state())) return Retire(record->id());
  live_[record->id()] = record;
  placed_.Put(record);
  waiting_.Put(*record);
  deadlines_.Put(record->id(), NextDeadline(*record));
  // One that is cancelled may still have some.
  if (HasTrainers(record->job().state()) || record->job().state() == v1::JOB_STATE_CANCELLING) {
    with_trainers_[record->id()] = record;
  } else {
    with_trainers_.erase(record->id());
  }
}

void ControlLoop::Retire(const std::string& id) {
  live_.erase(id);
  placed_.Remove(id);
  waiting_.Remove(id);
  deadlines_.Remove(id);
  with_trainers_.erase(id);
}

void ControlLoop::ShowProgress(Turn& turn) {
  if (turn.monotonic_now < last_progress_ + kProgressEvery) return;
  last_progress_ = turn.monotonic_now;
  for (const std::string& id : meters_.TakeChanged()) {
    auto record = std::make_shared<internal::JobRecord>(*live_.at(id));
    meters_.Overlay(*record, turn.now);
    Keep(record);
  }
}

void ControlLoop::Publish() {
  const absl::Duration now = parts_.clock.MonotonicNow();
  if (fleet_.TakeRosterChanged() || now >= last_roster_ + kRosterEvery) {
    last_roster_ = now;
    std::vector<v1::Worker> workers = fleet_.Roster(now, parts_.clock.TimeNow());
    parts_.metrics.CountWorkers(workers);
    free_slots_.Look(workers, RecoveringJobs(), parts_.clock.TimeNow());
    parts_.roster.Publish(std::move(workers));
  }
  if (unpublished_.empty() && unpublished_deletions_.empty()) return;
  parts_.metrics.CountJobs(counts_);
  parts_.catalog.Publish(std::exchange(unpublished_, {}),
                         std::exchange(unpublished_deletions_, {}));
}

}  // namespace anneal
