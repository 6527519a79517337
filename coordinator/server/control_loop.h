#pragma once
// The one thread that decides.

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/thread.h"
#include "coordinator/catalog/catalog.h"
#include "coordinator/catalog/catalog_store.h"
#include "coordinator/catalog/job_history.h"
#include "coordinator/collection/output_publisher.h"
#include "coordinator/fleet/fleet.h"
#include "coordinator/fleet/fleet_roster.h"
#include "coordinator/fleet/placed_jobs.h"
#include "coordinator/lifecycle/event_sink.h"
#include "coordinator/lifecycle/step.h"
#include "coordinator/scheduling/placement_policy.h"
#include "coordinator/server/answers.h"
#include "coordinator/server/coordinator_metrics.h"
#include "coordinator/server/deadlines.h"
#include "coordinator/server/free_slots.h"
#include "coordinator/server/job_meters.h"
#include "coordinator/server/job_queue.h"

namespace anneal {

// What the loop works with; all of it outlives the loop and is written by it alone.
struct ControlLoopParts {
  CatalogStore& store;
  StepMetricsWriter& steps;
  Catalog& catalog;
  FleetRoster& roster;
  OutputPublisher& outputs;
  CoordinatorMetrics& metrics;
  MetricRegistry& registry;
  Clock& clock;
};

struct ControlLoopOptions {
  FleetOptions fleet;
  // An elastic job trains for so long before it is worth starting again with more slots.
  absl::Duration grow_after = absl::Minutes(1);
};

// Purpose: turns. Each turn takes all that has come in, carries jobs over it (Step), places waiting
// jobs (PlacementPolicy), then persists, publishes, answers and tells the workers, in this order;
// so nobody hears of anything that a crash would undo. Owner: Coordinator. The public methods are
// thread-safe; everything else happens on the loop's thread.
//
// A turn that cannot be committed is dropped as a whole: requests are refused with UNAVAILABLE, and
// what workers said counts as not heard. They say it again, because it was not acknowledged; so a
// full disk heals by itself once there is room.
class ControlLoop : public EventSink, public FleetInbox {
 public:
  // Takes over from an earlier coordinator: a new epoch, its jobs and its workers.
  static absl::StatusOr<std::unique_ptr<ControlLoop>> Create(ControlLoopParts parts,
                                                             const ControlLoopOptions& options);
  ~ControlLoop() override;

  void Start();
  // One turn, with all that has come in. For simulations, which have no thread and do not Start.
  void TakeTurn();
  // Ends after the present turn; what has come in since is answered with UNAVAILABLE. May be called
  // twice.
  void Stop();
  int64_t epoch() const { return epoch_; }
  // Probes of the admin endpoint: whether the loop turns, and whether what it decides can be kept.
  absl::Status live() const;
  absl::Status ready() const;

  void CreateJob(internal::JobRecord record, std::string call, JobReply reply) override;
  void ChangeJob(const std::string& project, const std::string& id, LifecycleEvent event,
                 std::string call, JobReply reply) override;
  void DeleteJob(const std::string& project, const std::string& id, std::string call,
                 JobReply reply) override;

  void WorkerSynced(std::shared_ptr<FleetSession> session, internal::Observed observed) override;
  void SessionClosed(std::shared_ptr<FleetSession> session) override;
  void SetDrained(const std::string& worker, bool drained, std::string call,
                  WorkerReply reply) override;
  void Examine(std::map<std::string, internal::Examination> wanted, ExaminationSink sink) override;

 private:
  struct CreateMessage {
    internal::JobRecord record;
    std::string call;
    JobReply reply;
  };
  struct ChangeMessage {
    std::string project, id;
    LifecycleEvent event;
    std::string call;
    JobReply reply;
  };
  struct DeleteMessage {
    std::string project, id, call;
    JobReply reply;
  };
  struct SyncMessage {
    std::shared_ptr<FleetSession> session;
    internal::Observed observed;
  };
  struct ClosedMessage {
    std::shared_ptr<FleetSession> session;
  };
  struct DrainMessage {
    std::string worker;
    bool drained;
    std::string call;
    WorkerReply reply;
  };
  struct ExamineMessage {
    std::map<std::string, internal::Examination> wanted;
    ExaminationSink sink;
  };
  using Message = std::variant<CreateMessage, ChangeMessage, DeleteMessage, SyncMessage,
                               ClosedMessage, DrainMessage, ExamineMessage>;

  // What one turn has decided and not yet committed.
  struct Turn {
    absl::Time now;
    absl::Duration monotonic_now;
    std::map<std::string, std::shared_ptr<internal::JobRecord>> changed;  // working copies
    CatalogChange change;                             // all but `jobs`, which is made of `changed`
    std::map<std::string, std::string> new_requests;  // request key -> job
    std::vector<std::function<Answers::Answer(const absl::Status&)>> replies;  // to the commit
    std::vector<std::shared_ptr<FleetSession>> read_next;
    std::string call;  // the one whose wish is being carried out; empty for what happens by itself
    bool books_free_slots = false;
  };

  ControlLoop(ControlLoopParts parts, const ControlLoopOptions& options, int64_t epoch);
  absl::Status Load();
  // Takes the numbers of generations for given that are found in storage and not in the records.
  absl::Status SkipLostGenerations(std::vector<internal::JobRecord>& records);

  void Post(Message message);
  void Run();
  void RunTurn(std::vector<Message> messages);

  void Handle(CreateMessage& message, Turn& turn);
  void Handle(ChangeMessage& message, Turn& turn);
  void Handle(DeleteMessage& message, Turn& turn);
  void Handle(SyncMessage& message, Turn& turn);
  void Handle(ClosedMessage& message, Turn& turn);
  void Handle(DrainMessage& message, Turn& turn);
  void Handle(ExamineMessage& message, Turn& turn);
  // The log field of the call that asked; none for what happens by itself.
  static std::vector<Field> CallField(const std::string& call);
  // By project and request id.
  static std::string RequestKey(const internal::JobRecord& record);
  static absl::Status NoSuchJob(const std::string& id);
  // The id of the job that the request made before, or null.
  const std::string* FindRequest(const std::string& key, const Turn& turn) const;
  // The id of the new job, or of the one that the same request made before.
  absl::StatusOr<std::string> Create(internal::JobRecord record, const std::string& call,
                                     Turn& turn);
  // That everything it names is there, and stays until the turn is committed.
  absl::Status CheckResources(const internal::JobRecord& record, const Turn& turn);
  absl::Status CheckDeletable(const std::string& project, const std::string& id,
                              const Turn& turn) const;

  void TakeNews(const FleetNews& news, Turn& turn);
  void TakeStep(const FleetNews::StepNews& news, Turn& turn);
  // A worker where trainers do not even start is counted against it.
  void NoteFault(const v1::JobEvent& event, const internal::JobRecord& record, absl::Time now);
  void CheckDeadlines(Turn& turn);
  void Schedule(Turn& turn);
  // Turns the plan's decisions into events of their jobs.
  void CarryOut(const std::vector<Decision>& decisions, Turn& turn);

  // The job as this turn sees it, or null.
  const internal::JobRecord* Find(const std::string& id, const Turn& turn) const;
  // Carries the job over the event, into the turn; gives its outputs their name if that ends it.
  absl::Status Apply(const std::string& id, const LifecycleEvent& event, Turn& turn);

  // What slots did (control_loop_usage.cc). A record of an earlier version is given its account,
  // which is booked with the next commit.
  void OpenSlotAccountOf(internal::JobRecord& record);
  void Book(const internal::JobRecord& record, const SlotTimeByDay& slot_time, Turn& turn);
  // What no change of a job has booked. After everything else that a turn decides.
  void BookUsage(Turn& turn);
  void InstallUsage(const Turn& turn);
  JobTable RecoveringJobs() const;

  absl::Status Commit(Turn& turn);
  void Install(Turn& turn);
  // Takes the record as the job's newest, wherever it is looked up.
  void Keep(const std::shared_ptr<const internal::JobRecord>& record);
  // Drops it from all that is looked up of live jobs.
  void Retire(const std::string& id);
  void ShowProgress(Turn& turn);
  void Publish();
  // Answers with the job's record as of the commit.
  void ReplyWith(std::string id, JobReply reply, Turn& turn);
  // Answers with the refusal, whatever becomes of the turn.
  template <typename Reply>
  static void Refuse(absl::Status refusal, Reply reply, Turn& turn) {
    turn.replies.push_back([refusal = std::move(refusal), reply = std::move(reply)](
                               const absl::Status&) { return [=] { reply(refusal); }; });
  }

  const ControlLoopParts parts_;
  const absl::Duration grow_after_;
  const int64_t epoch_;
  const PlacementPolicy policy_{};

  mutable absl::Mutex mu_;
  std::vector<Message> queue_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  absl::Duration last_turn_ ABSL_GUARDED_BY(mu_);
  absl::Status last_commit_ ABSL_GUARDED_BY(mu_);

  // Loop thread only.
  Fleet fleet_;
  JobMeters meters_;
  FreeSlots free_slots_;
  std::map<std::string, SlotTimeByDay> opened_;  // accounts, by job, since the last commit
  absl::Duration last_booking_ = -absl::InfiniteDuration();
  JobTable jobs_;
  std::map<v1::JobState, int> counts_;           // of jobs_, by state
  std::map<std::string, std::string> requests_;  // request key -> job
  // Of the live jobs: all, those with something to do for workers, those that wait, and those whose
  // trainers hold slots.
  JobTable live_;
  PlacedJobs placed_;
  JobQueue waiting_;
  JobTable with_trainers_;
  Deadlines deadlines_;
  // What the last plan told those who wait to be prepared, if there were any.
  std::optional<WaitExplained> prepare_wait_;
  // Jobs that have changed since the last plan, whether anything of the fleet may have, and whether
  // a turn has gone without the plan that is called for.
  std::set<std::string> unplanned_;
  bool fleet_heard_ = false;
  bool plan_due_ = false;
  absl::Duration last_plan_ = -absl::InfiniteDuration();
  absl::Duration next_plan_ = -absl::InfiniteDuration();
  absl::Duration last_queue_count_ = -absl::InfiniteDuration();
  absl::Duration last_check_ = -absl::InfiniteDuration();
  absl::Duration last_roster_ = -absl::InfiniteDuration();
  absl::Duration last_flush_ = -absl::InfiniteDuration();
  absl::Duration last_progress_ = -absl::InfiniteDuration();
  // Since the last publication.
  std::vector<std::shared_ptr<const internal::JobRecord>> unpublished_;
  std::vector<std::string> unpublished_deletions_;

  Answers answers_;

  // Last, so that it has ended before anything above goes.
  Thread thread_;
};

}  // namespace anneal
