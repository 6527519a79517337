#pragma once
// What the coordinator knows of its workers, and what it tells them.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "anneal/internal/catalog.pb.h"
#include "anneal/internal/fleet_service.pb.h"
#include "anneal/v1/cluster_service.pb.h"
#include "coordinator/fleet/fleet_session.h"
#include "coordinator/fleet/placed_jobs.h"
#include "coordinator/lifecycle/lifecycle_event.h"
#include "coordinator/scheduling/placement_policy.h"

namespace anneal {

struct FleetOptions {
  // A worker not heard from for so long is lost.
  absl::Duration lease = absl::Seconds(10);
  // A worker lost for so long is no longer shown: nodes are replaced under new names.
  absl::Duration forget_after = absl::Hours(24);
  // After a start nobody is lost before this has passed: workers need time to find us again.
  absl::Duration start_grace = absl::Seconds(30);
  // Desired state is sent on change and this often.
  absl::Duration send_every = absl::Seconds(2);
  // A task that was taken back before its worker showed it counts as gone after this.
  absl::Duration release_unseen_after = absl::Seconds(5);
  // A worker where so many attempts in a row ended before their first step, for no fault of their
  // jobs and within the window, is excluded for a while.
  int faults_to_exclude = 3;
  absl::Duration fault_window = absl::Minutes(10);
  absl::Duration exclude_for = absl::Minutes(10);
};

// What a worker's message means for jobs, in the order in which it must be applied.
struct FleetNews {
  struct Fact {
    std::string job;
    LifecycleEvent event;
  };
  struct StepNews {
    TaskKey task;
    protocol::StepReport report;
  };
  struct PhaseNews {
    TaskKey task;
    std::string phase;
  };
  std::vector<std::variant<Fact, StepNews, PhaseNews>> items;
};

// Whether a worker may have this name: [a-z0-9][a-z0-9.-]{0,62}.
bool IsWorkerName(absl::string_view name);

// Purpose: translates streams into facts about tasks, and job records into desired state. It
// decides nothing about jobs. Owner: Coordinator. Loop thread only.
//
// All it knows of jobs it takes from the placed ones at each call; its own memory (what was
// observed, what was acknowledged) is rebuilt from the workers' messages after a restart.
// Surprising: reports count as received at once but are acknowledged only by MarkDurable, after the
// turn that used them is on disk; RollBack forgets what a failed turn had used.
class Fleet {
 public:
  // `now` is monotonic in all calls.
  Fleet(FleetOptions options, int64_t epoch, absl::Duration now);

  // The workers that earlier coordinators have known.
  void Restore(const std::vector<internal::WorkerRecord>& records, absl::Duration now);

  // Takes in a message; refuses it by closing the session. `wall_now` is shown to people.
  void WorkerSynced(std::shared_ptr<FleetSession> session, const internal::Observed& observed,
                    const PlacedJobs& placed, absl::Duration now, absl::Time wall_now,
                    FleetNews* news);
  void SessionClosed(const std::shared_ptr<FleetSession>& session);
  // Tasks of workers whose lease has run out.
  void CheckLeases(const PlacedJobs& placed, absl::Duration now, FleetNews* news);

  // NOT_FOUND for a worker never seen. Undraining also ends an exclusion.
  absl::Status SetDrained(absl::string_view worker, bool drained);
  // As FleetInbox::Examine. Kept in memory only: a coordinator that starts has nothing to ask.
  void Examine(std::map<std::string, internal::Examination> wanted,
               FleetInbox::ExaminationSink sink);
  // Whether jobs want slots of these kinds that they do not have: workers that have some may not
  // leave for want of work.
  void SetWanted(bool cpu, bool gpu);
  // A trainer died on the worker before its first step, for no fault of its job.
  void CountFault(absl::string_view worker, absl::Time wall_now);

  // Call after WorkerSynced of this turn; tasks placed since then are not seen.
  // Without the running jobs.
  ClusterView View(absl::Time wall_now) const;
  // Sends desired state to the workers for which it has changed, or is due.
  void SendDesired(PlacedJobs& placed, absl::Duration now);

  // Everything received so far is on disk.
  void MarkDurable();
  // What was received since MarkDurable was not kept: take it again when it comes again.
  void RollBack();

  // Workers whose records have changed since the last call.
  std::vector<internal::WorkerRecord> TakeChangedRecords();
  // For ListWorkers, by name: all but those that have left after draining, and those that have not
  // been heard for `forget_after`.
  std::vector<v1::Worker> Roster(absl::Duration now, absl::Time wall_now) const;
  // Whether anything of the roster but the times of syncs may have changed since the last call.
  bool TakeRosterChanged() { return std::exchange(roster_changed_, false); }

 private:
  // What is known of one task on one worker.
  struct TaskMemory {
    std::vector<std::string> slot_ids;
    std::string task_json;
    bool observed = false;
    bool ended = false;
    std::string phase, rendezvous;
    std::optional<internal::CollectiveWait> overdue;
    int64_t received = 0;  // newest report taken in
    int64_t durable = 0;   // newest report on disk
    // When the task stopped being wanted. Its slots stay taken until it is gone.
    std::optional<absl::Duration> unwanted_since;
  };
  struct WorkerState {
    internal::WorkerRecord record;
    internal::Observed observed;  // without its tasks
    bool has_tasks = false;       // whether there were any
    std::shared_ptr<FleetSession> session;
    absl::Duration last_heard;
    absl::Time last_sync;
    bool lost = false;
    bool record_changed = false;
    std::map<TaskKey, TaskMemory> tasks;
    // What is desired of it may not be what was sent last.
    bool desired_changed = true;
    std::string last_sent;
    absl::Duration last_sent_at;
  };

  static void RememberSlots(WorkerState& worker);
  // Takes in what the message says of the worker itself.
  void TakeFacts(WorkerState& worker, const internal::Observed& observed);
  static bool IsExcluded(const WorkerState& worker, absl::Time wall_now);
  // Why the message cannot be taken.
  absl::Status CheckMessage(const internal::Observed& observed) const;
  // Brings the memory in line with what the live jobs want of the worker.
  void RefreshTasks(WorkerState& worker, const PlacedJobs& placed, absl::Duration now);
  static void TakeObservation(const internal::TaskObservation& observation, const TaskKey& key,
                              TaskMemory& memory, FleetNews* news);
  static void TakeReport(const internal::Report& report, const TaskKey& key, TaskMemory& memory,
                         FleetNews* news);
  // The rank that the others wait for, when all of them are overdue.
  std::optional<TaskHung> FindHung(const internal::JobRecord& record) const;
  void FindAbsent(WorkerState& worker, const std::set<TaskKey>& present, absl::Duration now,
                  FleetNews* news);
  bool IsWanted(const WorkerState& worker) const;
  internal::Desired MakeDesired(const WorkerState& worker, const PlacedJobs& placed) const;
  // Slots in use, with the job that holds them.
  static std::map<std::string, std::string> TakenSlots(const WorkerState& worker);

  const FleetOptions options_;
  const int64_t epoch_;
  const absl::Duration start_;
  std::map<std::string, WorkerState, std::less<>> workers_;
  bool roster_changed_ = true;
  bool cpu_wanted_ = false, gpu_wanted_ = false;
  std::map<std::string, internal::Examination> examinations_;  // that are desired, by worker
  FleetInbox::ExaminationSink examination_sink_;
};

}  // namespace anneal
