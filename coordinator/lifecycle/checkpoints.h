#pragma once
// The committed checkpoints of a job, as its record lists them.

#include <string>

#include "absl/time/time.h"
#include "anneal/internal/catalog.pb.h"
#include "anneal/v1/job.pb.h"

namespace anneal {

// "jobs/{job}/checkpoints/{step}-g{generation}": the checkpoint's name, and its folder in the
// storage root.
std::string CheckpointName(const internal::JobRecord& record, int64_t step, int64_t generation);

v1::Checkpoint CheckpointFrom(const internal::JobRecord& record,
                              const internal::CheckpointRecord& checkpoint);

// Checkpoints of a job that has ended are kept for so long, for another to carry on.
inline constexpr absl::Duration kCheckpointTimeToLive = absl::Hours(7 * 24);
bool CheckpointsExpired(const internal::JobRecord& record, absl::Time now);

// What a new generation may resume from, newest first: the job's own checkpoints, or its parent's
// for as long as it has none.
const google::protobuf::RepeatedPtrField<internal::CheckpointRecord>& ResumableCheckpoints(
    const internal::JobRecord& record);

// Keeps the `keep_last` newest and the best by validation loss; forgets the others, whose folders
// are then collected.
void RetainCheckpoints(int keep_last, internal::JobRecord* record);

}  // namespace anneal
