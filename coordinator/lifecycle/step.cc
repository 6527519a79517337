#include "coordinator/lifecycle/step.h"

#include <algorithm>
#include <utility>

#include "common/base/status.h"
#include "coordinator/lifecycle/proto_time.h"
#include "coordinator/lifecycle/stepper.h"

namespace anneal {

absl::StatusOr<StepResult> Step(const internal::JobRecord& record, const LifecycleEvent& event,
                                absl::Time now) {
  Stepper stepper(record, now);
  ANNEAL_RETURN_IF_ERROR(stepper.Apply(event));
  return stepper.Finish();
}

absl::StatusOr<StepResult> StepInPlace(internal::JobRecord& record, const LifecycleEvent& event,
                                       absl::Time now) {
  Stepper stepper(std::move(record), now);
  if (absl::Status refused = stepper.Apply(event); !refused.ok()) {
    record = stepper.Finish().record;
    return refused;
  }
  StepResult result = stepper.Finish();
  if (!result.changed) record = std::move(result.record);
  return result;
}

StepResult CreateJobRecord(internal::JobRecord record, absl::Time now) {
  Stepper stepper(std::move(record), now);
  stepper.Create();
  return stepper.Finish();
}

std::vector<TaskPlace> OpenTasks(const internal::JobRecord& record) {
  std::vector<TaskPlace> tasks;
  if (record.prepare().attempt() > 0 && !record.prepare().ended()) {
    tasks.push_back({{record.id(), TaskKey::Kind::kPrepare, record.prepare().attempt(), 0},
                     record.prepare().worker()});
  }
  for (const internal::RankRecord& rank : record.train().ranks()) {
    if (!rank.ended()) {
      tasks.push_back(
          {{record.id(), TaskKey::Kind::kTrain, record.train().generation(), rank.rank()},
           rank.worker()});
    }
  }
  return tasks;
}

std::vector<TaskPlace> DesiredTasks(const internal::JobRecord& record) {
  const v1::JobState state = record.job().state();
  std::vector<TaskPlace> tasks = OpenTasks(record);
  std::erase_if(tasks, [state](const TaskPlace& place) {
    return place.task.kind == TaskKey::Kind::kPrepare ? state != v1::JOB_STATE_PREPARING
                                                      : !HasTrainers(state);
  });
  return tasks;
}

absl::Time NextDeadline(const internal::JobRecord& record) {
  const v1::JobState state = record.job().state();
  absl::Time next = absl::InfiniteFuture();
  if (HasTrainers(state) && record.train().has_suspect())
    next = TimeOf(record.train().blame_deadline());
  if (state == v1::JOB_STATE_RECOVERING) next = TimeOf(record.keep_slots_until());
  if (state == v1::JOB_STATE_PAUSING || state == v1::JOB_STATE_PREEMPTING)
    next = std::min(next, TimeOf(record.state_time()) + kStopPatience);
  const v1::LimitSpec& limits = record.job().resolved().spec().limits();
  const absl::Time start = TimeOf(record.train().start_time());
  if (state == v1::JOB_STATE_RUNNING && limits.max_hours() > 0) {
    next = std::min(next, start + absl::Hours(limits.max_hours()) -
                              absl::Seconds(record.train_seconds() - record.limit_base_seconds()));
  }
  if (state == v1::JOB_STATE_RUNNING && limits.max_slot_seconds() > 0) {
    const double left = limits.max_slot_seconds() + record.limit_base_slot_seconds() -
                        record.slot_account().ended_attempts();
    next = std::min(next, start + absl::Seconds(left / std::max(1, record.train().ranks_size())));
  }
  return next;
}

}  // namespace anneal
