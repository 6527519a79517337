#include "coordinator/collection/references.h"

#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/storage/layout.h"
#include "coordinator/lifecycle/checkpoints.h"
#include "coordinator/lifecycle/proto_time.h"
#include "coordinator/lifecycle/states.h"

namespace anneal {
namespace {

// "<step>-g<generation>"
bool ParseCheckpointId(absl::string_view id, int64_t* step, int64_t* generation) {
  const std::vector<absl::string_view> parts = absl::StrSplit(id, absl::MaxSplits("-g", 1));
  return parts.size() == 2 && absl::SimpleAtoi(parts[0], step) &&
         absl::SimpleAtoi(parts[1], generation);
}

}  // namespace

References::References(const JobTable& jobs, std::set<std::string> resources, absl::Time now)
    : jobs_(jobs),
      now_(now),
      paths_(std::make_move_iterator(resources.begin()), std::make_move_iterator(resources.end())) {
  for (const auto& [id, record] : jobs) {
    if (!CheckpointsExpired(*record, now)) {
      for (const auto& checkpoint : record->checkpoints()) paths_.insert(checkpoint.dir());
    }
    if (IsTerminal(record->job().state())) continue;
    for (const auto& checkpoint : record->parent_checkpoints()) paths_.insert(checkpoint.dir());
    paths_.insert(record->inputs().model_dir());
    for (const auto& file : record->inputs().train_files()) paths_.insert(file.path());
    for (const auto& file : record->inputs().validation_files()) paths_.insert(file.path());
  }
}

bool References::Holds(absl::string_view path) const {
  if (paths_.find(path) != paths_.end()) return true;
  const std::vector<absl::string_view> parts = absl::StrSplit(path, '/');
  const bool prepared = absl::StartsWith(path, "blobs/prepared/");
  if (parts[0] != "jobs" && parts[0] != "outputs" && !prepared) return false;
  std::string staged_for;
  int64_t generation = 0;
  if (parts[0] == "outputs" && ParseStagedOutput(parts[1], &staged_for, &generation)) {
    const auto job = jobs_.find(staged_for);
    return job != jobs_.end() && !IsTerminal(job->second->job().state()) &&
           generation >= job->second->train().generation();
  }
  const auto job = jobs_.find(prepared ? parts[2] : parts[1]);
  if (job == jobs_.end()) return false;
  const internal::JobRecord& record = *job->second;
  if (prepared) {
    return !IsTerminal(record.job().state()) ||
           now_ < TimeOf(record.job().finish_time()) + kPreparedTimeToLive;
  }
  if (parts.size() > 2 && parts[2] == "checkpoints") return HoldsCheckpoint(record, path);
  return true;
}

bool References::HoldsCheckpoint(const internal::JobRecord& job, absl::string_view path) const {
  int64_t step = 0, generation = 0;
  if (!ParseCheckpointId(path.substr(path.rfind('/') + 1), &step, &generation)) return true;
  // Committed ones are among the exact paths. Another one may still be, if its trainer lives.
  if (IsTerminal(job.job().state()) || generation < job.train().generation()) return false;
  return job.checkpoints().empty() || job.checkpoints(0).generation() < generation ||
         job.checkpoints(0).step() < step;
}

}  // namespace anneal
