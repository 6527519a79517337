// From records to the policy's view, and from its decisions to events.

#include "common/base/status.h"
#include "coordinator/lifecycle/proto_time.h"
#include "coordinator/lifecycle/states.h"
#include "coordinator/server/control_loop.h"

namespace anneal {
namespace {

// An elastic job trains for so long before it is worth starting again with more slots.
constexpr absl::Duration kGrowAfter = absl::Minutes(1);

QueuePlace PlaceOf(const internal::JobRecord& record) {
  return {
      .priority = record.job().resolved().spec().priority(),
      .since = TimeOf(record.has_queue_time() ? record.queue_time() : record.job().create_time()),
      .id = record.id()};
}

std::vector<Placement> PlacementsOf(const internal::JobRecord& record) {
  std::vector<Placement> placements;
  for (const internal::RankRecord& rank : record.train().ranks())
    placements.push_back({rank.worker(), rank.slot_id(), rank.device_uuid()});
  return placements;
}

std::optional<WaitingJob> AsWaiting(const internal::JobRecord& record, absl::Time now) {
  const v1::JobState state = record.job().state();
  const v1::ResourceSpec& resources = record.job().resolved().spec().resources();
  if (state == v1::JOB_STATE_PENDING)
    return WaitingJob{.place = PlaceOf(record), .needs_prepare = true};
  const bool recovering = state == v1::JOB_STATE_RECOVERING;
  if ((state != v1::JOB_STATE_QUEUED && !recovering) || now < TimeOf(record.retry().not_before())) {
    return std::nullopt;
  }
  // Jobs of earlier versions have but one number.
  const bool elastic = resources.has_min_slots();
  WaitingJob job{.place = PlaceOf(record),
                 .min_slots = elastic ? resources.min_slots() : resources.slots(),
                 .max_slots = elastic ? resources.max_slots() : resources.slots(),
                 .accelerator = resources.accelerator(),
                 .recovering = recovering};
  if (recovering) job.kept = PlacementsOf(record);
  return job;
}

std::optional<RunningJob> AsRunning(const internal::JobRecord& record, absl::Time now) {
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
      .may_grow = trains && now >= TimeOf(record.train().start_time()) + kGrowAfter};
}

}  // namespace

void ControlLoop::Schedule(Turn& turn) {
  ClusterView view = fleet_.View(turn.now);
  std::vector<WaitingJob> queue;
  const auto add = [&](const internal::JobRecord& record) {
    if (std::optional<WaitingJob> job = AsWaiting(record, turn.now))
      queue.push_back(*std::move(job));
    if (std::optional<RunningJob> job = AsRunning(record, turn.now))
      view.running.push_back(*std::move(job));
  };
  for (const auto& [id, record] : turn.changed) add(*record);
  for (const auto& [id, record] : live_) {
    if (turn.changed.count(id) == 0) add(*record);
  }
  parts_.metrics.CountQueue(queue, turn.now);
  if (queue.empty() && view.running.empty()) return;
  for (const Decision& decision : policy_.Plan(view, std::move(queue))) {
    const internal::JobRecord& record = *Find(decision.job, turn);
    // Said already: not worth a copy of the record, of which there may be thousands.
    const auto* wait = std::get_if<WaitExplained>(&decision.event);
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
