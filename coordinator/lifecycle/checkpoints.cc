#include "coordinator/lifecycle/checkpoints.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "coordinator/lifecycle/proto_time.h"
#include "coordinator/lifecycle/states.h"

namespace anneal {

std::string CheckpointName(const internal::JobRecord& record, int64_t step, int64_t generation) {
  return absl::StrCat(record.job().name(), "/checkpoints/", step, "-g", generation);
}

v1::Checkpoint CheckpointFrom(const internal::JobRecord& record,
                              const internal::CheckpointRecord& checkpoint) {
  v1::Checkpoint out;
  out.set_name(CheckpointName(record, checkpoint.step(), checkpoint.generation()));
  out.set_step(checkpoint.step());
  out.set_generation(checkpoint.generation());
  out.set_size_bytes(checkpoint.size_bytes());
  *out.mutable_create_time() = checkpoint.create_time();
  if (checkpoint.has_validation_loss()) out.set_validation_loss(checkpoint.validation_loss());
  out.set_manifest_sha256(checkpoint.manifest_sha256());
  out.set_write_seconds(checkpoint.write_seconds());
  out.set_stall_seconds(checkpoint.stall_seconds());
  return out;
}

bool CheckpointsExpired(const internal::JobRecord& record, absl::Time now) {
  return IsTerminal(record.job().state()) &&
         now >= TimeOf(record.job().finish_time()) + kCheckpointTimeToLive;
}

const google::protobuf::RepeatedPtrField<internal::CheckpointRecord>& ResumableCheckpoints(
    const internal::JobRecord& record) {
  return record.checkpoints().empty() ? record.parent_checkpoints() : record.checkpoints();
}

void RetainCheckpoints(int keep_last, internal::JobRecord* record) {
  auto& checkpoints = *record->mutable_checkpoints();
  int best = -1;
  double best_loss = std::numeric_limits<double>::infinity();
  for (int i = 0; i < checkpoints.size(); ++i) {
    // Of equals the newest, which comes first.
    if (checkpoints[i].has_validation_loss() && checkpoints[i].validation_loss() < best_loss) {
      best = i;
      best_loss = checkpoints[i].validation_loss();
    }
  }
  for (int i = checkpoints.size() - 1; i >= keep_last; --i) {
    if (i != best) checkpoints.DeleteSubrange(i, 1);
  }
}

}  // namespace anneal
