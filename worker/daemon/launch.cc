#include "worker/daemon/launch.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "common/base/log_format.h"
#include "common/base/random.h"
#include "common/base/status.h"
#include "common/protocol/messages.h"
#include "common/storage/layout.h"

namespace anneal {
namespace {

using internal::TaskId;
using protocol::TaskKey;
using protocol::TaskKind;

// Null if this worker has no such slot.
const v1::Slot* FindSlot(const std::vector<v1::Slot>& slots, absl::string_view id) {
  const auto slot =
      std::find_if(slots.begin(), slots.end(), [&](const v1::Slot& s) { return s.id() == id; });
  return slot == slots.end() ? nullptr : &*slot;
}

absl::Status CheckSlots(const internal::DesiredTask& desired, const TaskKey& key,
                        const std::vector<v1::Slot>& slots) {
  const int expected = key.kind == TaskKind::kTrain ? 1 : 0;
  if (desired.slot_ids_size() != expected) {
    return absl::InvalidArgumentError(absl::StrCat(TaskName(key), " takes ", expected, " slots, ",
                                                   desired.slot_ids_size(), " were given"));
  }
  for (const std::string& id : desired.slot_ids()) {
    if (FindSlot(slots, id) == nullptr)
      return absl::InvalidArgumentError(absl::StrCat("this worker has no slot ", id));
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status CheckTask(const absl::StatusOr<T>& task, const TaskKey& key) {
  if (!task.ok()) return task.status();
  if (task->job != key.job || task->generation != key.generation) {
    return absl::InvalidArgumentError(
        absl::StrCat("the task is of generation ", task->generation, " of job ", task->job));
  }
  return absl::OkStatus();
}

// `slot`: null for a process that takes none.
ProcessImage MakeImage(absl::string_view program, int64_t threads, const v1::Slot* slot,
                       const WorkerOptions& options) {
  ProcessImage image{.program = absl::StrCat(options.bin_dir, "/", program)};
  // Libraries read these before main, so the child cannot set them itself. MKL_CBWR keeps matrix
  // products the same whatever the alignment of their arguments, CUBLAS_WORKSPACE_CONFIG the same
  // on every call.
  const std::string count = absl::StrCat(std::max<int64_t>(1, threads));
  image.environment = LogEnvironment(options.logs);
  image.environment.insert(
      {{"MKL_CBWR", "AUTO"}, {"OMP_NUM_THREADS", count}, {"MKL_NUM_THREADS", count}});
  if (slot == nullptr || slot->device_uuid().empty()) return image;
  image.environment["CUDA_VISIBLE_DEVICES"] = slot->device_uuid();
  image.environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8";
  image.cpu_list = slot->cpu_list();
  return image;
}

}  // namespace

absl::StatusOr<TaskKey> TaskKeyFromProto(const TaskId& id) {
  TaskKey key{.job = id.job(), .generation = id.generation(), .rank = id.rank()};
  key.kind = id.kind() == TaskId::KIND_PREPARE ? TaskKind::kPrepare : TaskKind::kTrain;
  const bool known =
      id.kind() == TaskId::KIND_TRAIN || (id.kind() == TaskId::KIND_PREPARE && id.rank() == 0);
  if (!known || !protocol::ParseTaskName(TaskName(key)).ok()) {
    return absl::InvalidArgumentError(absl::StrCat("not a task id: ", id.ShortDebugString()));
  }
  return key;
}

TaskId TaskKeyToProto(const TaskKey& key) {
  TaskId id;
  id.set_job(key.job);
  id.set_generation(key.generation);
  id.set_kind(key.kind == TaskKind::kPrepare ? TaskId::KIND_PREPARE : TaskId::KIND_TRAIN);
  id.set_rank(key.rank);
  return id;
}

absl::StatusOr<TaskFile> MakeTaskFile(const internal::DesiredTask& desired, const TaskKey& key,
                                      const std::vector<v1::Slot>& slots,
                                      const WorkerOptions& options) {
  ANNEAL_RETURN_IF_ERROR(CheckSlots(desired, key, slots));
  ANNEAL_ASSIGN_OR_RETURN(
      Json json,
      ParseJson(desired.task_json(), {.max_bytes = protocol::kMaxLineBytes, .max_depth = 30}));
  if (key.kind == TaskKind::kPrepare) {
    ANNEAL_RETURN_IF_ERROR(CheckTask(protocol::PrepareTaskFromJson(json), key));
  } else {
    const absl::StatusOr<protocol::TrainTask> task = protocol::TrainTaskFromJson(json);
    ANNEAL_RETURN_IF_ERROR(CheckTask(task, key));
    if (task->rank != key.rank)
      return absl::InvalidArgumentError(absl::StrCat("the task is of rank ", task->rank));
    json["data_address"] = options.data_address;
    json["device_uuid"] = FindSlot(slots, desired.slot_ids(0))->device_uuid();
  }
  return TaskFile{.storage_root = options.storage_root,
                  .slots = {desired.slot_ids().begin(), desired.slot_ids().end()},
                  .task = std::move(json)};
}

std::string LogPath(const TaskKey& key, const std::string& storage_root) {
  const int rank = key.kind == TaskKind::kPrepare ? -1 : key.rank;
  return absl::StrCat(storage_root, "/", JobLogPath(key.job, key.generation, rank));
}

SpawnRequest MakeSpawnRequest(const RunFolder& folder, const TaskFile& task,
                              const std::vector<v1::Slot>& slots, const WorkerOptions& options) {
  const bool prepares = folder.key().kind == TaskKind::kPrepare;
  SpawnRequest request{
      .start = {.run_dir = folder.path(),
                .log_path = LogPath(folder.key(), task.storage_root),
                .arguments = {"--socket", folder.FilePath(protocol::kSocketName)}}};
  const auto threads = task.task.value("threads", int64_t{1});
  const v1::Slot* slot = nullptr;
  for (const std::string& id : task.slots) {
    request.slot = id;
    request.start.lock_paths.push_back(absl::StrCat(options.state_dir, "/slots/", id, ".lock"));
    slot = FindSlot(slots, id);
    if (slot == nullptr || slot->device_uuid().empty()) continue;
    // By device and machine, not by worker: two workers on one node must not lend the same GPU.
    request.start.lock_paths.push_back(
        absl::StrCat(options.device_lock_dir, "/anneal-", slot->device_uuid(), ".lock"));
  }
  request.image = MakeImage(prepares ? "anneal-prepare" : "anneal-trainer", threads, slot, options);
  return request;
}

std::vector<SpareRequest> MakeFirstSpares(const std::vector<v1::Slot>& slots,
                                          const WorkerOptions& options) {
  std::vector<SpareRequest> spares;
  for (const v1::Slot& slot : slots)
    spares.push_back({slot.id(), MakeImage("anneal-trainer", slot.threads(), &slot, options)});
  return spares;
}

std::vector<TrainerSlot> MakeTrainerSlots(const std::vector<v1::Slot>& slots,
                                          const WorkerOptions& options,
                                          const std::map<std::string, std::string>& inherited) {
  std::vector<TrainerSlot> made;
  for (const v1::Slot& slot : slots) {
    ProcessImage image = MakeImage("anneal-trainer", slot.threads(), &slot, options);
    image.environment.insert(inherited.begin(), inherited.end());
    made.push_back(
        {slot.id(), slot.accelerator(), std::move(image.program), std::move(image.environment)});
  }
  return made;
}

}  // namespace anneal
