#pragma once
// The life of one job as a pure function: no clock, no thread, no file.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "anneal/internal/catalog.pb.h"
#include "anneal/v1/job.pb.h"
#include "coordinator/lifecycle/lifecycle_event.h"
#include "coordinator/lifecycle/slot_account.h"

namespace anneal {

// What a step leads to. Nothing has happened until the caller has made it durable.
struct StepResult {
  internal::JobRecord record;
  // To append to the job's history, numbered without gaps after the record's last.
  std::vector<v1::JobEvent> events;
  // To add to what is booked for the job: its slots' time since the record was changed last.
  SlotTimeByDay slot_time;
  // False: the event meant nothing to this job, and `record` is as it was.
  bool changed = false;
  // True: the job's outputs need to have their name (OutputPath) before this is made durable. If
  // they cannot get it, OutputLost takes the place of the event.
  bool publishes_output = false;
};

// Carries a job over one event. Defined for every state and event: a fact that does not concern the
// job (an older generation, a repeated report, anything after the end) changes nothing; only a
// request that the state forbids is an error (FAILED_PRECONDITION, or INVALID_ARGUMENT for a bad
// number of slots). There are no effects on workers: what they should do follows from the record
// alone (DesiredTasks), so nothing is lost when a message is.
absl::StatusOr<StepResult> Step(const internal::JobRecord& record, const LifecycleEvent& event,
                                absl::Time now);
// The same without a copy: the result has the record, and `record` is empty. If the event is
// refused or changes nothing, `record` is as it was, and the result has none.
absl::StatusOr<StepResult> StepInPlace(internal::JobRecord& record, const LifecycleEvent& event,
                                       absl::Time now);

// A new job's first record, in PENDING, with its first event. `record` has id, project, specs,
// inputs and request set.
StepResult CreateJobRecord(internal::JobRecord record, absl::Time now);

// A task and its worker.
struct TaskPlace {
  TaskKey task;
  std::string worker;
};
// The tasks that should run now.
std::vector<TaskPlace> DesiredTasks(const internal::JobRecord& record);
// The tasks that are not known to have ended, wanted or not.
std::vector<TaskPlace> OpenTasks(const internal::JobRecord& record);

// When Tick may change something; the infinite future if never.
absl::Time NextDeadline(const internal::JobRecord& record);

// How long a rank's failed collective waits for the death of another rank that explains it: a
// little longer than a worker's lease, so that a lost worker is named.
inline constexpr absl::Duration kBlameWindow = absl::Seconds(12);
// A job whose prepare worker was lost so often is failed: it may be what kills them.
inline constexpr int kMaxPrepareAttempts = 3;
// A recovering job keeps the slots of its surviving ranks for so long; then it queues.
inline constexpr absl::Duration kKeepSlots = absl::Seconds(60);
// Trainers that are to stop at a step boundary and have not by then are stopped without.
inline constexpr absl::Duration kStopPatience = absl::Minutes(15);
// So many failures of one step, for reasons of its own, end the job.
inline constexpr int kMaxSameStepFailures = 3;
inline constexpr size_t kMaxLogTailBytes = 4096;

}  // namespace anneal
