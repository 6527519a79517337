#pragma once
// What the slots of a job did, and what came of it: pure functions of its record.
//
//   held while                                      is          and becomes
//   RUNNING, EXPORTING                              training    redone, when the job goes on from
//   an earlier checkpoint;
//                                                               lost, when it fails or is
//                                                               cancelled; else useful
//   STARTING, PAUSING, PREEMPTING, RECOVERING,
//   CANCELLING (slots whose processes still run)    idle
//
// Training counts as useful until it is known to be something else. All times are slot-seconds.

#include <cstdint>
#include <map>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "anneal/internal/catalog.pb.h"

namespace anneal {

// To add to what is booked on one day. Time that becomes something else is taken off one kind and
// added to another.
struct SlotTime {
  double useful = 0, redone = 0, lost = 0, idle = 0;
};
using SlotTimeByDay = std::map<int64_t, SlotTime>;  // by days since 1970, in UTC

// The day of `time`, in days since 1970, in UTC.
int64_t DayOf(absl::Time time);
// Calls with each day of the time from `begin` to `end`, and its seconds.
void ForEachDay(absl::Time begin, absl::Time end,
                absl::FunctionRef<void(int64_t day, double seconds)> f);

// Slots that are the job's now: of its trainers or, in RECOVERING, kept for them.
int HeldSlots(const internal::JobRecord& record);
// Whether the slot of this rank is kept while the job recovers.
bool IsKept(const internal::RankRecord& rank);

// The functions below change the record's account and add to `booked` what has changed in it. Those
// but the first do nothing to a record without an account.

// For a new job, and for one of an earlier version with what that has counted: on the day of its
// end, or today.
void OpenSlotAccount(absl::Time now, internal::JobRecord* record, SlotTimeByDay* booked);
// Counts up to `now`. To be called before anything changes that says what the slots do.
void CountSlotTime(absl::Time now, internal::JobRecord* record, SlotTimeByDay* booked);
// The training after the newest checkpoint, or all without one, is done again.
void CountRedone(internal::JobRecord* record, SlotTimeByDay* booked);
// An attempt has ended: training after the newest checkpoint is done again, if there was any step.
void CountAttemptEnd(internal::JobRecord* record, SlotTimeByDay* booked);
// All training came to nothing.
void CountLost(internal::JobRecord* record, SlotTimeByDay* booked);

// How much training the job could go on with from a checkpoint that is committed now.
double TrainedBy(const internal::JobRecord& record, double write_seconds);

// Writes Job.usage, with the time up to `now` that is not counted yet.
void ShowSlotTime(absl::Time now, internal::JobRecord* record);

}  // namespace anneal
