#pragma once
// A coordinator's real control loop with model workers, model trainers, users and faults.

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/metrics/metrics.h"
#include "common/protocol/messages.h"
#include "coordinator/catalog/catalog.h"
#include "coordinator/catalog/job_history.h"
#include "coordinator/fleet/fleet_roster.h"
#include "coordinator/server/control_loop.h"
#include "coordinator/server/coordinator_metrics.h"
#include "tests/simulation/sim_disk.h"
#include "tests/simulation/sim_worker.h"
#include "tests/simulation/sim_world.h"

namespace anneal::simulation {

// All that dies with the coordinator's process.
struct SimCoordinator {
  SimCoordinator(World& world, SimDisk& disk, SimOutputs& outputs, StepMetricsWriter& steps);

  SimCatalogStore store;
  Catalog catalog;
  FleetRoster roster;
  MetricRegistry registry;
  CoordinatorMetrics metrics;
  std::unique_ptr<ControlLoop> loop;
};

class SimCluster : public ProcessModel {
 public:
  // `metrics_dir` is an empty folder for step metrics.
  SimCluster(uint64_t seed, const std::string& metrics_dir);

  // One run: faults for a while, then peace until every job has ended. Fails the test if an
  // invariant breaks or a job does not end.
  void Run();
  std::string TraceHash() { return world_.TraceHash(); }
  World& world() { return world_; }

  void Started(SimWorker& worker, const TaskKey& key) override;

 private:
  // The trainers of one generation.
  struct Gang {
    int world_size = 0;
    protocol::TrainTask task;  // of rank 0
    std::map<int, SimWorker*> joined;
    int64_t step = 0, checkpoint_step = 0;
    bool exporting = false;
    bool hung = false;  // in its next step, for good
    bool over = false;
  };
  using GangKey = std::pair<std::string, int64_t>;

  void StartCoordinator();
  void CrashCoordinator();
  void Tick(int start);
  void Turn();

  void Submit(int number);
  void ActAsUser();
  void InjectFault();
  void Heal();
  bool AllEnded() const;

  void StartPrepare(SimWorker& worker, const TaskKey& key);
  void Join(SimWorker& worker, const TaskKey& key);
  void BeginTraining(const GangKey& id);
  void Step(const GangKey& id);
  void Export(const GangKey& id);
  void Checkpoint(const GangKey& id);
  // One rank does not come to its next collective, where all others wait for it.
  void Hang(const GangKey& id, int rank);
  // False, and the others fail one after another, if a rank is gone.
  bool IsWhole(const GangKey& id);
  void EndAll(Gang& gang, const GangKey& id, const std::string& reason);
  static TaskKey RankOf(const GangKey& id, int rank) {
    return {id.first, TaskKey::Kind::kTrain, id.second, rank};
  }

  World world_;
  SimDisk disk_;
  SimOutputs outputs_;
  std::unique_ptr<StepMetricsWriter> steps_;
  std::unique_ptr<SimCoordinator> coordinator_;
  int starts_ = 0;
  std::vector<std::unique_ptr<SimWorker>> workers_;
  std::map<GangKey, Gang> gangs_;
  std::set<std::string> damaged_;       // folders of checkpoints
  std::set<std::string> acknowledged_;  // jobs
  bool faults_ = true;
};

}  // namespace anneal::simulation
