#pragma once
// The fence of a job's outputs: trainers write, the coordinator gives the name.

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "anneal/v1/job.pb.h"
#include "common/storage/storage_root.h"

namespace anneal {

// An interface, so that simulations need no files.
class OutputPublisher {
 public:
  virtual ~OutputPublisher() = default;
  // Renames what `generation` has written (StagedOutputPath) to the job's OutputPath. To be called
  // only for the generation that the job is at, before its result is committed: a generation that
  // was given up while it was cut off may still write, but only beside. May be repeated, as after a
  // crash before the commit. Returns how many bytes the outputs have.
  virtual absl::StatusOr<int64_t> Publish(const std::string& job, int64_t generation,
                                          const v1::JobResult& result) = 0;
  // The newest generation of each of these jobs that has left logs, checkpoints or outputs; without
  // those that have left nothing. A catalog that was restored from a backup may not know of it.
  virtual std::map<std::string, int64_t> FindGenerations(const std::set<std::string>& jobs) = 0;
};

// For the control loop's thread. `root` must outlive it.
class StorageOutputPublisher : public OutputPublisher {
 public:
  explicit StorageOutputPublisher(StorageRoot& root) : root_(root) {}
  // DATA_LOSS if the manifest there is not the one of the result, or no manifest. What an earlier
  // generation published, whose result was never committed, goes to the trash.
  absl::StatusOr<int64_t> Publish(const std::string& job, int64_t generation,
                                  const v1::JobResult& result) override;
  // A folder that cannot be read is logged, and counts as empty.
  std::map<std::string, int64_t> FindGenerations(const std::set<std::string>& jobs) override;

 private:
  std::vector<std::string> List(const std::string& folder) const;

  StorageRoot& root_;
};

}  // namespace anneal
