#include "coordinator/lifecycle/slot_account.h"

#include <algorithm>

#include "coordinator/lifecycle/proto_time.h"
#include "coordinator/lifecycle/states.h"

namespace anneal {
namespace {

constexpr absl::Duration kDay = absl::Hours(24);

bool Trains(const internal::JobRecord& record) {
  return record.job().state() == v1::JOB_STATE_RUNNING ||
         record.job().state() == v1::JOB_STATE_EXPORTING;
}

double Trained(const internal::SlotAccount& account) {
  double sum = 0;
  for (const internal::TrainedOnDay& entry : account.trained()) sum += entry.slot_seconds();
  return sum;
}

void AddTrained(int64_t day, double slot_seconds, internal::SlotAccount* account,
                SlotTimeByDay* booked) {
  auto& trained = *account->mutable_trained();
  if (trained.empty() || trained[trained.size() - 1].day() != day) trained.Add()->set_day(day);
  internal::TrainedOnDay& entry = trained[trained.size() - 1];
  entry.set_slot_seconds(entry.slot_seconds() + slot_seconds);
  (*booked)[day].useful += slot_seconds;
}

// Of the newest checkpoint; 0 without one of the job's own.
double TrainedAtCheckpoint(const internal::JobRecord& record) {
  return record.checkpoints().empty() ? 0 : record.checkpoints(0).trained_slot_seconds();
}

// What earlier versions have not counted of the attempt that lives.
void OpenLiveAttempt(internal::JobRecord* record) {
  const absl::Time start = TimeOf(record->train().start_time());
  *record->mutable_slot_account()->mutable_counted_until() = record->train().start_time();
  for (internal::CheckpointRecord& checkpoint : *record->mutable_checkpoints()) {
    if (checkpoint.generation() != record->train().generation()) continue;
    const double seconds = absl::ToDoubleSeconds(TimeOf(checkpoint.create_time()) - start);
    checkpoint.set_trained_slot_seconds(checkpoint.trained_slot_seconds() +
                                        std::max(0.0, seconds) * record->train().ranks_size());
  }
}

}  // namespace

int64_t DayOf(absl::Time time) {
  absl::Duration rest;
  return absl::IDivDuration(time - absl::UnixEpoch(), kDay, &rest);
}

void ForEachDay(absl::Time begin, absl::Time end,
                absl::FunctionRef<void(int64_t day, double seconds)> f) {
  while (begin < end) {
    const int64_t day = DayOf(begin);
    const absl::Time until = std::min(end, absl::UnixEpoch() + kDay * (day + 1));
    f(day, absl::ToDoubleSeconds(until - begin));
    begin = until;
  }
}

bool IsKept(const internal::RankRecord& rank) { return !rank.lost(); }

int HeldSlots(const internal::JobRecord& record) {
  const v1::JobState state = record.job().state();
  const auto& ranks = record.train().ranks();
  if (HasTrainers(state)) return ranks.size();
  if (state == v1::JOB_STATE_RECOVERING)
    return static_cast<int>(std::count_if(ranks.begin(), ranks.end(), IsKept));
  if (state != v1::JOB_STATE_CANCELLING) return 0;
  return static_cast<int>(std::count_if(
      ranks.begin(), ranks.end(), [](const internal::RankRecord& rank) { return !rank.ended(); }));
}

void OpenSlotAccount(absl::Time now, internal::JobRecord* record, SlotTimeByDay* booked) {
  if (record->has_slot_account()) return;
  internal::SlotAccount& account = *record->mutable_slot_account();
  *account.mutable_counted_until() = TimestampOf(now);
  const v1::JobUsage& before = record->job().usage();
  if (before.slot_seconds() > 0) {
    const int64_t day =
        DayOf(record->job().has_finish_time() ? TimeOf(record->job().finish_time()) : now);
    const double redone = std::min(before.redone_slot_seconds(), before.slot_seconds());
    account.set_ended_attempts(before.slot_seconds());
    account.set_redone(redone);
    (*booked)[day].redone += redone;
    AddTrained(day, before.slot_seconds() - redone, &account, booked);
    for (internal::CheckpointRecord& checkpoint : *record->mutable_checkpoints())
      checkpoint.set_trained_slot_seconds(Trained(account));
  }
  const v1::JobState state = record->job().state();
  if (state == v1::JOB_STATE_FAILED || state == v1::JOB_STATE_CANCELLED ||
      state == v1::JOB_STATE_CANCELLING) {
    CountLost(record, booked);
  }
  if (HasTrainers(state)) OpenLiveAttempt(record);
  CountSlotTime(now, record, booked);
  ShowSlotTime(now, record);
}

void CountSlotTime(absl::Time now, internal::JobRecord* record, SlotTimeByDay* booked) {
  if (!record->has_slot_account()) return;
  internal::SlotAccount& account = *record->mutable_slot_account();
  const absl::Time begin = TimeOf(account.counted_until());
  // A clock that was set back counts on from where it stands now.
  *account.mutable_counted_until() = TimestampOf(now);
  const absl::Time until = TimeOf(account.counted_until());
  const int held = HeldSlots(*record);
  if (held == 0) return;
  ForEachDay(begin, until, [&](int64_t day, double seconds) {
    if (Trains(*record)) return AddTrained(day, seconds * held, &account, booked);
    account.set_idle(account.idle() + seconds * held);
    (*booked)[day].idle += seconds * held;
  });
}

void CountRedone(internal::JobRecord* record, SlotTimeByDay* booked) {
  if (!record->has_slot_account()) return;
  internal::SlotAccount& account = *record->mutable_slot_account();
  double redone = Trained(account) - TrainedAtCheckpoint(*record);
  auto& trained = *account.mutable_trained();
  // The newest time comes first.
  while (redone > 0 && !trained.empty()) {
    internal::TrainedOnDay& entry = trained[trained.size() - 1];
    const double taken = std::min(redone, entry.slot_seconds());
    redone -= taken;
    account.set_redone(account.redone() + taken);
    (*booked)[entry.day()].useful -= taken;
    (*booked)[entry.day()].redone += taken;
    entry.set_slot_seconds(entry.slot_seconds() - taken);
    if (entry.slot_seconds() <= 0) trained.RemoveLast();
  }
}

void CountAttemptEnd(internal::JobRecord* record, SlotTimeByDay* booked) {
  if (!record->has_slot_account()) return;
  const bool all_kept = !record->checkpoints().empty() &&
                        record->checkpoints(0).step() >= record->job().progress().step();
  if (!all_kept) return CountRedone(record, booked);
  record->mutable_checkpoints(0)->set_trained_slot_seconds(Trained(record->slot_account()));
}

void CountLost(internal::JobRecord* record, SlotTimeByDay* booked) {
  if (!record->has_slot_account()) return;
  internal::SlotAccount& account = *record->mutable_slot_account();
  for (const internal::TrainedOnDay& entry : account.trained()) {
    account.set_lost(account.lost() + entry.slot_seconds());
    (*booked)[entry.day()].useful -= entry.slot_seconds();
    (*booked)[entry.day()].lost += entry.slot_seconds();
  }
  account.clear_trained();
}

double TrainedBy(const internal::JobRecord& record, double write_seconds) {
  // It was written in the background: it holds what there was when that began. One for which
  // training was stopped holds everything.
  const double meanwhile = Trains(record) ? write_seconds * HeldSlots(record) : 0;
  return std::max(TrainedAtCheckpoint(record), Trained(record.slot_account()) - meanwhile);
}

void ShowSlotTime(absl::Time now, internal::JobRecord* record) {
  if (!record->has_slot_account()) return;
  const internal::SlotAccount& account = record->slot_account();
  const double live = std::max(0.0, absl::ToDoubleSeconds(now - TimeOf(account.counted_until()))) *
                      HeldSlots(*record);
  v1::JobUsage& usage = *record->mutable_job()->mutable_usage();
  usage.set_redone_slot_seconds(account.redone());
  usage.set_lost_slot_seconds(account.lost());
  usage.set_idle_slot_seconds(account.idle() + (Trains(*record) ? 0 : live));
  usage.set_slot_seconds(Trained(account) + account.redone() + account.lost() + account.idle() +
                         live);
}

}  // namespace anneal
