#include "coordinator/lifecycle/step.h"

#include <utility>

#include "common/base/status.h"
#include "coordinator/lifecycle/stepper.h"

namespace anneal {

absl::StatusOr<StepResult> Step(const internal::JobRecord& record, const LifecycleEvent& event,
                                absl::Time now) {
  Stepper stepper(record, now);
  ANNEAL_RETURN_IF_ERROR(stepper.Apply(event));
  return stepper.Finish();
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
                                                      : !TrainsIn(state);
  });
  return tasks;
}

}  // namespace anneal
