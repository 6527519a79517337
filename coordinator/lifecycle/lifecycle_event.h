#pragma once
// What can happen to one job. Facts come from the fleet and the scheduler, requests from users.

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "anneal/internal/catalog.pb.h"
#include "common/protocol/messages.h"

namespace anneal {

// One process of a job: prepare, or one rank of one generation. A prepare task's generation is its
// attempt.
struct TaskKey {
  enum class Kind { kPrepare, kTrain };

  std::string job;  // ULID
  Kind kind = Kind::kPrepare;
  int64_t generation = 0;
  int32_t rank = 0;

  auto operator<=>(const TaskKey&) const = default;
};

// The scheduler gives the job a prepare slot.
struct PrepareAssigned {
  std::string worker;
};

// One rank's place.
struct Placement {
  std::string worker;
  std::string slot_id;
  std::string device_uuid;
};
// The scheduler gives the job slots, by rank.
struct SlotsAssigned {
  std::vector<Placement> placements;
};

// Why the scheduler lets the job wait.
struct WaitExplained {
  std::string reason;
  std::string message;
};

// The scheduler wants a running job to stop at its next step boundary with a checkpoint, and to
// wait for slots again: for preemption, drain or growth.
struct MoveRequired {
  internal::StopReason reason = internal::STOP_REASON_PREEMPTION;
  std::string message;
};

// A worker shows the task alive.
struct TaskObserved {
  TaskKey task;
  std::string phase;       // what the child says it is doing; may be empty
  std::string rendezvous;  // rank 0's store; empty until it listens
};

// A report of the task, but for steps, which are kept apart. `sequence` tells repetitions.
struct TaskReported {
  TaskKey task;
  int64_t sequence = 0;
  protocol::Report report;
};

// Rank 0 reported a result, but what it wrote could not be published. In place of TaskReported.
struct OutputLost {
  TaskKey task;
  int64_t sequence = 0;
  std::string message;
};

// The task's process has ended, or could not be started.
struct TaskEnded {
  TaskKey task;
  std::string cause;  // "exit 1", "killed by signal 9 (SIGKILL)", "refused"; empty if it ended well
  int32_t code = 0;   // google.rpc.Code of the child's exit record; 0 if it left none
  std::string reason, message;
  std::string log_tail;
  int32_t signal = 0;  // that killed it; 0 if none did
};

// The task went down with its worker, or the worker has come back without it.
struct TaskLost {
  TaskKey task;
  std::string message;
};

// A rank stands still while all others wait for it.
struct TaskHung {
  TaskKey task;
  std::string message;
};

// A task that is no longer wanted has left its worker.
struct TaskReleased {
  TaskKey task;
};

// There is, or was, a task that the catalog does not know: where an older catalog was restored, its
// number was given in the time that is lost. Means nothing for a number that is known.
struct LostTaskFound {
  TaskKey task;
};

// Time has passed; deadlines are looked at.
struct Tick {};

// Requests. Repeating the last request's id changes nothing.
struct CancelRequested {
  std::string request_id;
};
struct PauseRequested {
  std::string request_id;
};
struct ResumeRequested {
  std::string request_id;
  std::optional<int32_t> slots;
};
struct FinishRequested {
  std::string request_id;
};
// Where do the ranks stand? They write it to their logs. Each one counts.
struct StacksRequested {};

using LifecycleEvent =
    std::variant<PrepareAssigned, SlotsAssigned, WaitExplained, MoveRequired, TaskObserved,
                 TaskReported, OutputLost, TaskEnded, TaskLost, TaskHung, TaskReleased,
                 LostTaskFound, Tick, CancelRequested, PauseRequested, ResumeRequested,
                 FinishRequested, StacksRequested>;

}  // namespace anneal
