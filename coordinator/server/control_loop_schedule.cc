// From records to the policy's view, and from its decisions to events.

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "coordinator/lifecycle/proto_time.h"
#include "coordinator/lifecycle/states.h"
#include "coordinator/server/control_loop.h"

namespace anneal {
namespace {

// A plan looks at so many jobs of each kind; those behind them have that many before them.
constexpr size_t kPlanDepth = 256;
// After a plan so many times as long as it took pass before the next: planning for a large fleet
// must not keep requests waiting, and for a small one every turn that calls for a plan has it.
constexpr int kPlanPause = 10;
// Also where nothing has changed: some jobs only wait for a time to come.
constexpr absl::Duration kPlanEvery = absl::Milliseconds(250);
constexpr absl::Duration kQueueCountEvery = absl::Milliseconds(250);
// And so many of those behind the first then have their turn.
constexpr size_t kInTurn = 128;

std::optional<RunningJob> AsRunning(const internal::JobRecord& record, absl::Time now,
                                    absl::Duration grow_after) {
  const v1::JobState state = record.job().state();
  const bool cancelling = state == v1::JOB_STATE_CANCELLING && record.has_train();
  if (!HasTrainers(state) && !cancelling) return std::nullopt;
  const v1::ResourceSpec& resources = record.job().resolved().spec().resources();
  const bool trains = state == v1::JOB_STATE_RUNNING && !record.finish_requested();
  return RunningJob{
      .place = PlaceOf(record),
      .placements = PlacementsOf(record),
      .accelerator = resources.accelerator(),
      .max_slots = resources.max_slots(),
      .movable = trains || state == v1::JOB_STATE_STARTING,
      .leaving = state == v1::JOB_STATE_PAUSING || state == v1::JOB_STATE_PREEMPTING || cancelling,
      .may_grow = trains && now >= TimeOf(record.train().start_time()) + grow_after};
}

}  // namespace

void ControlLoop::Schedule(Turn& turn) {
  if (turn.monotonic_now >= last_queue_count_ + kQueueCountEvery) {
    const SlotsWanted wanted = waiting_.CountWanted();
    parts_.metrics.CountQueue(waiting_.FindLongestWaits(turn.now), wanted);
    fleet_.SetWanted(wanted.cpu > 0, wanted.gpu > 0);
    last_queue_count_ = turn.monotonic_now;
    // Those behind the first, too, hear it when they wait for something else.
    for (std::string& id : waiting_.NextInTurn(kInTurn)) unplanned_.insert(std::move(id));
  }
  const bool may_plan = turn.monotonic_now >= next_plan_;
  fleet_heard_ = fleet_heard_ || turn.monotonic_now >= last_plan_ + kPlanEvery;
  for (const auto& [id, record] : turn.changed) {
    if (prepare_wait_.has_value() && record->job().state() == v1::JOB_STATE_PENDING &&
        !(may_plan && fleet_heard_)) {
      // What those before it were told holds for it; one of the first is in the next plan anyway.
      ANNEAL_CHECK_OK(Apply(id, *prepare_wait_, turn));
    } else {
      unplanned_.insert(id);
    }
  }
  const bool wanted = fleet_heard_ || !unplanned_.empty();
  plan_due_ = wanted && !may_plan;
  if (!wanted || !may_plan) return;
  fleet_heard_ = false;
  last_plan_ = turn.monotonic_now;
  prepare_wait_.reset();
  const absl::Duration began = parts_.clock.MonotonicNow();
  ClusterView view = fleet_.View(turn.now);
  std::vector<WaitingJob> queue;
  const auto add = [&](const internal::JobRecord& record) {
    std::optional<WaitingJob> job = AsWaiting(record);
    if (job.has_value() && turn.now >= NotBefore(record)) queue.push_back(*std::move(job));
  };
  const auto add_running = [&](const internal::JobRecord& record) {
    if (std::optional<RunningJob> job = AsRunning(record, turn.now, grow_after_))
      view.running.push_back(*std::move(job));
  };
  // All that is new is looked at once, however far back it stands: it hears why it waits.
  const std::set<std::string> unplanned = std::exchange(unplanned_, {});
  for (const std::string& id : unplanned) {
    if (const internal::JobRecord* record = Find(id, turn)) add(*record);
  }
  for (WaitingJob& job : waiting_.First(kPlanDepth, turn.now)) {
    if (unplanned.count(job.place.id) == 0) queue.push_back(std::move(job));
  }
  for (const auto& [id, record] : turn.changed) add_running(*record);
  for (const auto& [id, record] : with_trainers_) {
    if (turn.changed.count(id) == 0) add_running(*record);
  }
  if (!queue.empty() || !view.running.empty()) CarryOut(policy_.Plan(view, std::move(queue)), turn);
  const absl::Duration ended = parts_.clock.MonotonicNow();
  next_plan_ = ended + (ended - began) * kPlanPause;
}

void ControlLoop::CarryOut(const std::vector<Decision>& decisions, Turn& turn) {
  for (const Decision& decision : decisions) {
    const internal::JobRecord& record = *Find(decision.job, turn);
    // Said already: not worth a copy of the record, of which there may be thousands.
    const auto* wait = std::get_if<WaitExplained>(&decision.event);
    if (wait != nullptr && record.job().state() == v1::JOB_STATE_PENDING) prepare_wait_ = *wait;
    if (wait != nullptr && wait->reason == record.job().state_reason() &&
        wait->message == record.job().state_message()) {
      continue;
    }
    if (std::holds_alternative<SlotsAssigned>(decision.event)) {
      parts_.metrics.queue_wait.Observe(
          absl::ToDoubleSeconds(turn.now - TimeOf(record.state_time())));
    }
    ANNEAL_CHECK_OK(Apply(decision.job, decision.event, turn));
  }
}

}  // namespace anneal
