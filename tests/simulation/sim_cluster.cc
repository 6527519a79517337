#include "tests/simulation/sim_cluster.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/format/json.h"

namespace anneal::simulation {
namespace {

constexpr int kJobs = 7;
constexpr absl::Duration kFaultTime = absl::Seconds(90);
constexpr absl::Duration kEnd = absl::Hours(4);
constexpr absl::Duration kTick = absl::Seconds(1);
// So many steps between checkpoints.
constexpr int64_t kCheckpointSteps = 5;

int64_t TotalSteps(const std::string& job) {
  return 10 + static_cast<int64_t>(job.back() - '0') * 8;
}

}  // namespace

SimCoordinator::SimCoordinator(World& world, SimDisk& disk, SimOutputs& outputs,
                               StepMetricsWriter& steps)
    : store(disk), catalog(world.clock()), metrics(registry) {
  absl::StatusOr<std::unique_ptr<ControlLoop>> made = ControlLoop::Create(
      {store, steps, catalog, roster, outputs, metrics, registry, world.clock()},
      ControlLoopOptions());
  ANNEAL_CHECK_OK(made.status());
  loop = *std::move(made);
}

SimCluster::SimCluster(uint64_t seed, const std::string& metrics_dir)
    : world_(seed), disk_(world_), outputs_(world_, disk_) {
  steps_ = *StepMetricsWriter::Open(metrics_dir);
  StartCoordinator();
  const int workers = 2 + static_cast<int>(world_.Below(3));
  const auto connect = [this](SimWorker& worker) -> std::shared_ptr<SimSession> {
    if (coordinator_ == nullptr) return nullptr;
    return std::make_shared<SimSession>(world_, worker);
  };
  const auto send = [this](std::shared_ptr<SimSession> session, internal::Observed observed) {
    if (coordinator_ == nullptr) return;
    coordinator_->loop->WorkerSynced(std::move(session), std::move(observed));
    Turn();
  };
  for (int w = 0; w < workers; ++w) {
    workers_.push_back(std::make_unique<SimWorker>(
        world_, absl::StrCat("w", w), 1 + static_cast<int>(world_.Below(3)), *this, connect, send));
  }
  for (int j = 0; j < kJobs; ++j) {
    world_.After(world_.Between(absl::ZeroDuration(), absl::Seconds(30)), [this, j] { Submit(j); });
  }
}

void SimCluster::StartCoordinator() {
  coordinator_ = std::make_unique<SimCoordinator>(world_, disk_, outputs_, *steps_);
  world_.Trace("coordinator starts");
  Tick(++starts_);
}

void SimCluster::CrashCoordinator() {
  if (coordinator_ == nullptr) return;
  world_.Trace("coordinator crashes");
  // Streams end with the process.
  coordinator_.reset();
  for (const auto& worker : workers_) {
    worker->SetPartitioned(true);
    world_.After(world_.Between(absl::Milliseconds(10), absl::Milliseconds(100)),
                 [w = worker.get()] { w->SetPartitioned(false); });
  }
  world_.After(world_.Between(absl::Milliseconds(100), absl::Seconds(10)),
               [this] { StartCoordinator(); });
}

void SimCluster::Tick(int start) {
  world_.After(kTick, [this, start] {
    if (start != starts_ || coordinator_ == nullptr) return;
    Turn();
    Tick(start);
  });
}

void SimCluster::Turn() { coordinator_->loop->TakeTurn(); }

void SimCluster::Submit(int number) {
  const auto again = [this, number] {
    world_.After(absl::Seconds(1), [this, number] { Submit(number); });
  };
  if (coordinator_ == nullptr) return again();
  internal::JobRecord record;
  record.set_id(absl::StrCat("job", number));
  record.set_request_id(record.id());
  record.mutable_job()->set_name("jobs/" + record.id());
  record.mutable_job()->set_project("p");
  v1::JobSpec& spec = *record.mutable_job()->mutable_resolved()->mutable_spec();
  // Numbers alone, so that a repeated request asks for the same.
  const int slots = 1 << (number % 2);
  spec.mutable_resources()->set_slots(slots);
  spec.mutable_resources()->set_min_slots(number % 3 == 0 ? 1 : slots);
  spec.mutable_resources()->set_max_slots(slots);
  spec.mutable_resources()->set_accelerator(v1::ResourceSpec::ACCELERATOR_CPU);
  spec.mutable_training()->set_logical_shards(4);
  spec.mutable_checkpoint()->set_keep_last(2);
  spec.mutable_retry()->set_max_infrastructure_failures(1000);
  spec.mutable_retry()->set_max_unknown_failures(1000);
  spec.set_priority(static_cast<v1::JobSpec::Priority>(1 + number % 3));
  if (number == 3) spec.mutable_limits()->set_max_slot_seconds(20);
  coordinator_->loop->CreateJob(record, "", [this, again, id = record.id()](const auto& answer) {
    if (answer.ok()) {
      acknowledged_.insert(id);
    } else {
      // The answer may have been lost with the coordinator, or the disk was full.
      again();
    }
  });
  Turn();
}

void SimCluster::ActAsUser() {
  if (coordinator_ == nullptr || acknowledged_.empty()) return;
  auto job = std::next(acknowledged_.begin(), world_.Below(acknowledged_.size()));
  const std::string request = absl::StrCat("r", world_.Below(1000000));
  const std::vector<LifecycleEvent> actions = {
      PauseRequested{request},     PauseRequested{request},  ResumeRequested{request, {}},
      ResumeRequested{request, 1}, FinishRequested{request}, CancelRequested{request}};
  coordinator_->loop->ChangeJob("p", *job, actions[world_.Below(actions.size())], "",
                                [](const auto&) {});
  Turn();
}

void SimCluster::InjectFault() {
  if (!faults_) return;
  SimWorker& worker = *workers_[world_.Below(workers_.size())];
  const absl::Duration down = world_.Between(absl::Milliseconds(200), absl::Seconds(20));
  const std::vector<TaskKey> running = worker.running();
  switch (world_.Below(10)) {
    case 0:
      CrashCoordinator();
      break;
    case 1:
      world_.Trace(absl::StrCat(worker.name(), " is cut off"));
      worker.SetPartitioned(true);
      world_.After(down, [&worker] { worker.SetPartitioned(false); });
      break;
    case 2:
      world_.Trace(absl::StrCat("daemon of ", worker.name(), " crashes"));
      worker.CrashDaemon(down);
      break;
    case 3:
      world_.Trace(absl::StrCat(worker.name(), " crashes"));
      worker.CrashKeeper(down);
      break;
    case 4:
      disk_.set_full(true);
      world_.After(down / 4, [this] { disk_.set_full(false); });
      break;
    case 5:
      if (coordinator_ == nullptr) break;
      coordinator_->loop->SetDrained(worker.name(), true, "", [](const auto&) {});
      Turn();
      world_.After(down, [this, &worker] {
        if (coordinator_ == nullptr) return;
        coordinator_->loop->SetDrained(worker.name(), false, "", [](const auto&) {});
        Turn();
      });
      break;
    case 6:
      ActAsUser();
      break;
    case 7: {
      if (running.empty()) break;
      const TaskKey& victim = running[world_.Below(running.size())];
      if (victim.kind == TaskKey::Kind::kTrain) Hang({victim.job, victim.generation}, victim.rank);
      break;
    }
    default:
      if (running.empty()) break;
      worker.EndProcess(running[world_.Below(running.size())], world_.Chance(0.8) ? 9 : 11, 2,
                        "KILLED");
  }
  world_.After(world_.Between(absl::Milliseconds(100), absl::Seconds(6)),
               [this] { InjectFault(); });
}

void SimCluster::Heal() {
  faults_ = false;
  world_.Trace("peace");
  disk_.set_full(false);
  // From now on somebody resumes what is paused and gives drained workers back.
  const auto care = [this](const auto& self) -> void {
    if (coordinator_ != nullptr) {
      for (const auto& worker : workers_)
        coordinator_->loop->SetDrained(worker->name(), false, "", [](const auto&) {});
      for (const std::string& id : acknowledged_) {
        if (disk_.job(id).job().state() != v1::JOB_STATE_PAUSED) continue;
        coordinator_->loop->ChangeJob(
            "p", id,
            ResumeRequested{absl::StrCat("care", absl::FormatDuration(world_.elapsed())), {}}, "",
            [](const auto&) {});
      }
      Turn();
    }
    world_.After(absl::Seconds(30), [self] { self(self); });
  };
  world_.After(absl::Seconds(25), [care] { care(care); });
}

bool SimCluster::AllEnded() const {
  if (faults_ || acknowledged_.size() < kJobs) return false;
  return std::all_of(acknowledged_.begin(), acknowledged_.end(), [this](const std::string& id) {
    return IsTerminal(disk_.job(id).job().state());
  });
}

void SimCluster::Run() {
  world_.After(absl::Seconds(2), [this] { InjectFault(); });
  world_.After(kFaultTime, [this] { Heal(); });
  // Looked at once a second, which is cheaper than after every event.
  bool ended = false;
  const auto look = [this, &ended](const auto& self) -> void {
    ended = AllEnded();
    world_.After(absl::Seconds(1), [self] { self(self); });
  };
  look(look);
  world_.Run(kEnd, [&ended] { return ended || ::testing::Test::HasFailure(); });
  for (const std::string& id : acknowledged_) {
    const internal::JobRecord record = disk_.job(id);
    EXPECT_TRUE(IsTerminal(record.job().state()))
        << id << " is " << StateName(record.job().state()) << ": " << record.job().state_message();
    if (record.job().state() == v1::JOB_STATE_SUCCEEDED) {
      EXPECT_EQ(outputs_.GenerationOf(id), record.train().generation()) << id;
    }
  }
  EXPECT_EQ(acknowledged_.size(), static_cast<size_t>(kJobs));
}

void SimCluster::Started(SimWorker& worker, const TaskKey& key) {
  if (key.kind == TaskKey::Kind::kPrepare) {
    StartPrepare(worker, key);
  } else {
    Join(worker, key);
  }
}

void SimCluster::StartPrepare(SimWorker& worker, const TaskKey& key) {
  world_.After(world_.Between(absl::Milliseconds(500), absl::Seconds(3)), [this, &worker, key] {
    if (worker.FindRunning(key) == nullptr) return;
    protocol::Report report;
    report.prepared = protocol::PreparedReport{.train_data = "prepared", .train_rows = 10};
    worker.Report(key, report);
    worker.EndProcess(key, 0, 0, "");
  });
}

void SimCluster::Join(SimWorker& worker, const TaskKey& key) {
  const GangKey id{key.job, key.generation};
  Gang& gang = gangs_[id];
  const absl::StatusOr<protocol::TrainTask> task =
      protocol::TrainTaskFromJson(*ParseJson(worker.FindRunning(key)->json));
  ASSERT_THAT(task, anneal::testing::IsOk());
  if (key.rank == 0) {
    gang.task = *task;
    worker.SetPhase(key, "load", absl::StrCat(worker.name(), ":1"));
  } else if (worker.FindRunning(key)->peer.empty()) {
    world_.After(absl::Milliseconds(200), [this, &worker, key] {
      if (worker.FindRunning(key) != nullptr) Join(worker, key);
    });
    return;
  }
  gang.world_size = task->world_size;
  EXPECT_TRUE(gang.joined.emplace(key.rank, &worker).second) << "a rank runs twice";
  if (static_cast<int>(gang.joined.size()) == gang.world_size) {
    world_.After(world_.Between(absl::Milliseconds(200), absl::Seconds(1)),
                 [this, id] { BeginTraining(id); });
  } else if (gang.joined.size() == 1) {
    // Nobody waits for ever for those that do not come.
    world_.After(absl::Minutes(1), [this, id] {
      Gang& waiting = gangs_.at(id);
      if (static_cast<int>(waiting.joined.size()) < waiting.world_size)
        EndAll(waiting, id, "COLLECTIVE_FAILED");
    });
  }
}

bool SimCluster::IsWhole(const GangKey& id) {
  Gang& gang = gangs_.at(id);
  if (gang.over) return false;
  for (const auto& [rank, worker] : gang.joined) {
    if (worker->FindRunning(RankOf(id, rank)) != nullptr) continue;
    EndAll(gang, id, "COLLECTIVE_FAILED");
    return false;
  }
  return true;
}

void SimCluster::EndAll(Gang& gang, const GangKey& id, const std::string& reason) {
  gang.over = true;
  const bool well = reason.empty() || reason == "PAUSED";
  for (const auto& [rank, worker] : gang.joined) {
    world_.After(world_.Between(absl::Milliseconds(10), well ? absl::Seconds(1) : absl::Seconds(4)),
                 [w = worker, key = RankOf(id, rank), well, reason] {
                   w->EndProcess(key, 0, well ? 0 : 14, reason);
                 });
  }
}

void SimCluster::BeginTraining(const GangKey& id) {
  if (!IsWhole(id)) return;
  Gang& gang = gangs_.at(id);
  SimWorker& leader = *gang.joined.at(0);
  protocol::ResumedReport resumed;
  for (const protocol::CheckpointReference& checkpoint : gang.task.resume_from) {
    EXPECT_TRUE(checkpoint.step > 0);
    if (world_.Chance(0.05)) damaged_.insert(checkpoint.dir);
    if (damaged_.count(checkpoint.dir) > 0) {
      resumed.damaged.push_back({checkpoint.dir, "wrong hash"});
      continue;
    }
    gang.step = gang.checkpoint_step = resumed.step = checkpoint.step;
    resumed.dir = checkpoint.dir;
    break;
  }
  if (!gang.task.resume_from.empty()) {
    protocol::Report report;
    report.resumed = resumed;
    leader.Report(RankOf(id, 0), report);
  }
  leader.SetPhase(RankOf(id, 0), "train");
  Step(id);
}

void SimCluster::Step(const GangKey& id) {
  world_.After(world_.Between(absl::Milliseconds(200), absl::Milliseconds(900)), [this, id] {
    if (!IsWhole(id) || gangs_.at(id).hung) return;
    Gang& gang = gangs_.at(id);
    SimWorker& leader = *gang.joined.at(0);
    const int64_t total = TotalSteps(id.first);
    if (gang.step < total) {
      protocol::Report report;
      report.step = protocol::StepReport{
          .step = ++gang.step, .total_steps = total, .train_loss = 1, .step_seconds = 0.5};
      leader.Report(RankOf(id, 0), report);
    }
    // All agree on what all have heard.
    bool pause = true, finish = true;
    for (const auto& [rank, worker] : gang.joined) {
      const internal::DesiredTask::Action action = worker->FindRunning(RankOf(id, rank))->action;
      pause &= action == internal::DesiredTask::ACTION_PAUSE;
      finish &= action == internal::DesiredTask::ACTION_FINISH;
    }
    if (gang.step >= total || finish) return Export(id);
    if (pause || gang.step - gang.checkpoint_step >= kCheckpointSteps) Checkpoint(id);
    if (pause) return EndAll(gang, id, "PAUSED");
    Step(id);
  });
}

void SimCluster::Hang(const GangKey& id, int rank) {
  const auto found = gangs_.find(id);
  // One that still starts or exports has no pace by which a hang would show.
  if (found == gangs_.end() || found->second.step == 0 || found->second.exporting) return;
  world_.Trace(absl::StrCat("rank ", rank, " of ", id.first, " hangs"));
  found->second.hung = true;
  for (const auto& [other, worker] : found->second.joined) {
    world_.After(world_.Between(absl::Seconds(8), absl::Seconds(9)),
                 [w = worker, key = RankOf(id, other), sequence = other == rank ? 1 : 2] {
                   w->SetOverdue(key, sequence);
                 });
  }
}

void SimCluster::Checkpoint(const GangKey& id) {
  Gang& gang = gangs_.at(id);
  if (gang.checkpoint_step == gang.step) return;
  gang.checkpoint_step = gang.step;
  protocol::Report report;
  if (world_.Chance(0.1)) {
    report.checkpoint_failed = protocol::CheckpointFailedReport{gang.step, "disk full"};
  } else {
    report.checkpoint = protocol::CheckpointReport{
        .step = gang.step,
        .dir = absl::StrCat(gang.task.checkpoint_root, "/", gang.step, "-g", id.second),
        .manifest_sha256 = "ab"};
    if (world_.Chance(0.5)) report.checkpoint->validation_loss = world_.Below(100) / 10.0;
  }
  gang.joined.at(0)->Report(RankOf(id, 0), report);
}

void SimCluster::Export(const GangKey& id) {
  gangs_.at(id).exporting = true;
  gangs_.at(id).joined.at(0)->SetPhase(RankOf(id, 0), "export");
  world_.After(world_.Between(absl::Milliseconds(500), absl::Seconds(2)), [this, id] {
    if (!IsWhole(id)) return;
    Gang& gang = gangs_.at(id);
    protocol::Report report;
    report.result = protocol::ResultReport{.primary = "adapter", .manifest_sha256 = "ab"};
    gang.joined.at(0)->Report(RankOf(id, 0), report);
    EndAll(gang, id, "");
  });
}

}  // namespace anneal::simulation
