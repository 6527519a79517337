// What slots did, booked with the records that it follows from: once, whatever breaks.

#include <memory>
#include <utility>

#include "coordinator/lifecycle/states.h"
#include "coordinator/server/control_loop.h"

namespace anneal {
namespace {

// Jobs that run long, and free slots, are booked this often. Whatever else happens to a job books
// its time too.
constexpr absl::Duration kBookEvery = absl::Minutes(1);

void Add(const UsageSeconds& more, UsageSeconds* sum) {
  sum->held.useful += more.held.useful;
  sum->held.redone += more.held.redone;
  sum->held.lost += more.held.lost;
  sum->held.idle += more.held.idle;
  sum->free += more.free;
}

}  // namespace

void ControlLoop::OpenSlotAccountOf(internal::JobRecord& record) {
  if (record.has_slot_account()) return;
  // Most finished jobs of earlier versions that never had slots are left as they are.
  if (IsTerminal(record.job().state()) && record.job().usage().slot_seconds() <= 0) return;
  OpenSlotAccount(parts_.clock.TimeNow(), &record, &opened_[record.id()]);
}

void ControlLoop::Book(const internal::JobRecord& record, const SlotTimeByDay& slot_time,
                       Turn& turn) {
  for (const auto& [day, time] : slot_time) {
    Add({.held = time},
        &turn.change.usage[{day, record.job().project(), record.job().creator(),
                            record.job().resolved().spec().resources().accelerator()}]);
  }
}

void ControlLoop::BookUsage(Turn& turn) {
  for (const auto& [id, slot_time] : opened_) {
    std::shared_ptr<internal::JobRecord>& record = turn.changed[id];
    if (record == nullptr) record = std::make_shared<internal::JobRecord>(*jobs_.at(id));
    Book(*record, slot_time, turn);
  }
  if (turn.monotonic_now >= last_booking_ + kBookEvery) {
    last_booking_ = turn.monotonic_now;
    turn.books_free_slots = true;
    for (const auto& [id, record] : with_trainers_) {
      // What has changed in this turn is counted up to now.
      if (turn.changed.count(id) > 0 || HeldSlots(*record) == 0) continue;
      auto counted = std::make_shared<internal::JobRecord>(*record);
      SlotTimeByDay slot_time;
      CountSlotTime(turn.now, counted.get(), &slot_time);
      Book(*counted, slot_time, turn);
      turn.changed[id] = std::move(counted);
    }
  }
  // Free slots need no commit of their own where jobs have one.
  turn.books_free_slots |= !turn.change.usage.empty();
  if (!turn.books_free_slots) return;
  for (const auto& [key, seconds] : free_slots_.counted()) Add(seconds, &turn.change.usage[key]);
}

void ControlLoop::InstallUsage(const Turn& turn) {
  opened_.clear();
  if (turn.books_free_slots) free_slots_.Clear();
  parts_.metrics.CountSlotTime(turn.change.usage);
}

JobTable ControlLoop::RecoveringJobs() const {
  JobTable recovering;
  // There are few, of what may be thousands of jobs.
  const auto count = counts_.find(v1::JOB_STATE_RECOVERING);
  if (count == counts_.end() || count->second == 0) return recovering;
  for (const auto& [id, record] : live_) {
    if (record->job().state() == v1::JOB_STATE_RECOVERING) recovering[id] = record;
  }
  return recovering;
}

}  // namespace anneal
