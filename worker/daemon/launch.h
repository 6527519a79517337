#pragma once
// How a task becomes a process: pure functions of plain values.

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "anneal/internal/fleet_service.pb.h"
#include "anneal/v1/cluster_service.pb.h"
#include "common/protocol/run_folder_layout.h"
#include "worker/daemon/options.h"
#include "worker/examiner/slot_lender.h"
#include "worker/supervisor/keeper_link.h"
#include "worker/supervisor/run_folder.h"

namespace anneal {

// INVALID_ARGUMENT if the id is not one (job not a ULID, no kind, negative numbers, a prepare task
// with a rank).
absl::StatusOr<protocol::TaskKey> TaskKeyFromProto(const internal::TaskId& id);
internal::TaskId TaskKeyToProto(const protocol::TaskKey& key);

// The task as the child gets it: the coordinator's JSON, checked against its schema, with what only
// this node knows filled in (data address, device). INVALID_ARGUMENT for a task that is not for
// this key or slot.
absl::StatusOr<TaskFile> MakeTaskFile(const internal::DesiredTask& desired,
                                      const protocol::TaskKey& key,
                                      const std::vector<v1::Slot>& slots,
                                      const WorkerOptions& options);

// Program, environment, log and locks of the task's process.
SpawnRequest MakeSpawnRequest(const RunFolder& folder, const TaskFile& task,
                              const std::vector<v1::Slot>& slots, const WorkerOptions& options);

// The spares of a worker that has not run anything yet: made for a trainer that uses all threads of
// its slot.
std::vector<SpareRequest> MakeFirstSpares(const std::vector<v1::Slot>& slots,
                                          const WorkerOptions& options);

// How measurements start a trainer in these slots, with the environment that a task's has: its own
// settings over `inherited`, those of this process.
std::vector<TrainerSlot> MakeTrainerSlots(const std::vector<v1::Slot>& slots,
                                          const WorkerOptions& options,
                                          const std::map<std::string, std::string>& inherited);

// <storage root>/jobs/<job>/logs/g<generation>/rank<rank>.log, or .../logs/prepare.log
std::string LogPath(const protocol::TaskKey& key, const std::string& storage_root);

}  // namespace anneal
