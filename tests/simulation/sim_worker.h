#pragma once
// A worker as a model: daemon, keeper, run folders and slots, without processes.

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "anneal/internal/fleet_service.pb.h"
#include "common/protocol/messages.h"
#include "coordinator/fleet/fleet_session.h"
#include "coordinator/lifecycle/lifecycle_event.h"
#include "tests/simulation/sim_world.h"

namespace anneal::simulation {

class SimWorker;

// The coordinator's end of one stream. Messages keep their order; those that are under way when the
// network breaks are lost, with the stream.
class SimSession : public FleetSession, public std::enable_shared_from_this<SimSession> {
 public:
  SimSession(World& world, SimWorker& worker) : world_(world), worker_(worker) {}

  void Send(internal::Desired desired) override;
  void ReadNext() override {}
  void Close(absl::Status status) override;

  // Delivers `what` after all that was sent in this direction before.
  void Deliver(absl::Duration* last, std::function<void()> what);
  bool open = true;
  absl::Duration last_up, last_down;

 private:
  World& world_;
  SimWorker& worker_;
};

struct SimTask {
  enum class State { kWaiting, kRunning, kEnded };

  TaskKey key;
  State state = State::kWaiting;
  std::vector<std::string> slots;
  std::string json;
  internal::DesiredTask::Action action = internal::DesiredTask::ACTION_RUN;
  std::string phase, rendezvous, peer;  // peer: where rank 0 listens, as told
  std::vector<std::string> reports;
  int64_t acknowledged = 0;
  std::optional<internal::CollectiveWait> overdue;
  internal::TaskExit exit;
  bool stopping = false;
};

// What the worker's trainers and prepare processes do; implemented by the cluster.
class ProcessModel {
 public:
  virtual ~ProcessModel() = default;
  virtual void Started(SimWorker& worker, const TaskKey& key) = 0;
};

class SimWorker {
 public:
  using Connector = std::function<std::shared_ptr<SimSession>(SimWorker&)>;
  using Sender = std::function<void(std::shared_ptr<SimSession>, internal::Observed)>;

  // `connect` gives null while the coordinator is down; `send` hands a message to it.
  SimWorker(World& world, std::string name, int slots, ProcessModel& processes, Connector connect,
            Sender send);

  const std::string& name() const { return name_; }
  // Nothing comes through, in neither direction, until it is set back.
  void SetPartitioned(bool partitioned);
  // The daemon dies; what it started lives on, and the next daemon takes over.
  void CrashDaemon(absl::Duration down);
  // The keeper, and with it everything.
  void CrashKeeper(absl::Duration down);

  void Receive(const std::shared_ptr<SimSession>& session, const internal::Desired& desired);
  void SessionBroken(SimSession* session);

  // Null if there is no such process now.
  SimTask* FindRunning(const TaskKey& key);
  std::vector<TaskKey> running() const;
  void Report(const TaskKey& key, const protocol::Report& report);
  void SetPhase(const TaskKey& key, const std::string& phase, const std::string& rendezvous = "");
  // The trainer says that it waits in a collective for too long.
  void SetOverdue(const TaskKey& key, int64_t sequence);
  void EndProcess(const TaskKey& key, int signal, int status_code, const std::string& reason);

 private:
  void Connect();
  void Beat(int incarnation);
  void Changed();
  void SendNow();
  internal::Observed Observe() const;
  void StartWaiting();
  void Remove(const TaskKey& key);

  World& world_;
  const std::string name_;
  const int slots_;
  ProcessModel& processes_;
  const Connector connect_;
  const Sender send_;

  bool up_ = true;
  bool partitioned_ = false;
  bool send_pending_ = false;
  int incarnation_ = 1;
  int64_t epoch_ = 0;
  std::shared_ptr<SimSession> session_;
  std::map<TaskKey, SimTask> tasks_;
};

}  // namespace anneal::simulation
