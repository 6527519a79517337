#pragma once
// Names inside a run folder, the meeting place of one child process, the daemon and the keeper:
// <state-dir>/runs/<task name>/. docs/formats/run_folder.md says who writes which file and when.

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/log.h"

namespace anneal::protocol {

enum class TaskKind { kPrepare, kTrain };
// "prepare" or "train", as in Hello.kind.
absl::string_view TaskKindName(TaskKind kind);

// Names one child process: prepare of a job, or one rank of one generation of a job.
struct TaskKey {
  std::string job;  // ULID
  int64_t generation = 0;
  TaskKind kind = TaskKind::kTrain;
  int32_t rank = 0;  // 0 for prepare

  auto operator<=>(const TaskKey&) const = default;
};

// "01hf7yat00abcdefghjkmnpqrs-g3-train0": the name of the task's run folder.
std::string TaskName(const TaskKey& key);
// INVALID_ARGUMENT unless TaskName gives `name` back.
absl::StatusOr<TaskKey> ParseTaskName(absl::string_view name);

// How a task is named in logs: job, kind=train, generation and rank, or job, kind=prepare and
// attempt (what TaskKey::generation is for prepare).
std::vector<Field> TaskFields(const TaskKey& key);
// Those of the task that this is the run folder of; none if it is not one's.
std::vector<Field> TaskFieldsOf(absl::string_view run_dir);

inline constexpr char kSocketName[] =
    "s";  // short, because a Unix socket's path is limited to 107 bytes
inline constexpr char kReportsName[] = "reports.jsonl";
inline constexpr char kExitName[] = "exit.json";
inline constexpr char kTaskName[] = "task.json";
inline constexpr char kProcessName[] = "process.json";
inline constexpr char kEndName[] = "end.json";

}  // namespace anneal::protocol
