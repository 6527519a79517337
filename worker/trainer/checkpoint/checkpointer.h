#pragma once
// Takes checkpoints while training goes on.

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/thread.h"
#include "common/format/checkpoint_manifest.h"
#include "common/protocol/messages.h"
#include "common/storage/file_system.h"
#include "worker/trainer/checkpoint/state_slices.h"
#include "worker/trainer/collective/communicator.h"

namespace anneal::trainer {

// What rank 0 adds to a checkpoint, as it is after the checkpoint's step.
struct RunRecords {
  std::string ledger_path;  // only grows
  int64_t ledger_bytes = 0;
  std::string history;  // RunRecord::ToJsonLines
  std::optional<double> validation_loss;
};

// One per rank. The state is copied between two steps on the training thread, and written by a
// thread of its own, "checkpoint": each rank its logical shards' files, rank 0 in addition ledger
// and history. Background threads never talk to other ranks. Instead each rank says in the message
// that ranks exchange in every step whether its files are durable; when all are, the ranks exchange
// hashes between two steps, and rank 0 writes the manifest (thread "publish") and renames the
// folder. So a checkpoint appears whole or not at all, under the same agreement as every step.
//
// A fault of the disk on any rank gives up that checkpoint alone: it is reported, its folder
// removed, and the next is due as if it had been written. Guarded by its caller, the training
// thread. All ranks make the same calls; an error means that the communicator is broken.
class Checkpointer {
 public:
  struct Options {
    std::string storage_root;
    std::string root;  // of the job's checkpoints, below the storage root
    std::string job;
    int64_t generation = 0;
    int64_t total_steps = 0;
    int logical_shards = 1;
    std::string numeric_fingerprint;
    absl::Duration interval;  // zero: only when told
  };
  // All references must outlive it.
  struct Surroundings {
    Communicator& communicator;
    at::Device device;  // the communicator's
    FileSystem& files;
    Clock& clock;
    // Called by rank 0.
    std::function<absl::Status(const protocol::Report&)> send_report;
    std::function<RunRecords()> records;
  };
  // `own_state`: this rank's logical shards, as they lie in memory for the object's life.
  // `last_step` is the one that the run resumed from, 0 at the start.
  Checkpointer(Options options, Surroundings surroundings, std::vector<ShardState> own_state,
               int64_t last_step);
  // Waits for its threads.
  ~Checkpointer();

  // What this rank has to say in the next step's message: whether a checkpoint is due (rank 0 alone
  // decides), and whether its files of the one under way are written or given up.
  bool is_due() const;
  bool part_is_done() const { return part_is_done_; }

  // After `step`. The arguments are what the ranks agreed on in that step: whether rank 0 said that
  // one is due, and whether every rank's part is done.
  absl::Status AtStepBoundary(int64_t step, bool due, bool all_parts_done);
  // Returns when the one under way is published or given up.
  absl::Status Complete();
  // Takes one of `step`, unless there is, and completes it.
  absl::Status CompleteWith(int64_t step);

  // For which this rank's training stood still, in all.
  double stall_seconds() const { return stall_seconds_; }

 private:
  // Adds the time of its life to the stall.
  class Stall;

  void Begin(int64_t step);
  void Write();
  absl::StatusOr<std::vector<CheckpointFile>> WriteParts() const;
  // With the hashes of all ranks: hands over to the publishing thread, or gives up.
  absl::Status Settle();
  void Publish(std::vector<CheckpointFile> state_files);
  absl::StatusOr<std::string> PublishFolder(const CheckpointManifest& manifest) const;
  absl::Status ReportIfPublished();
  absl::Status GiveUp(const absl::Status& why);
  bool is_first_rank() const { return around_.communicator.rank() == 0; }
  std::string Dir() const;  // relative to the storage root
  std::string FinalFolder() const;
  std::string PartialFolder() const;

  const Options options_;
  const Surroundings around_;
  const std::vector<ShardState> own_state_;
  std::vector<ShardState> snapshot_;  // of own_state_; kept from one checkpoint to the next

  // Of the checkpoint under way or the last one.
  bool writing_ = false;  // begun and not settled: the same on all ranks
  int64_t step_ = 0;
  RunRecords records_;
  double stall_before_ = 0;  // stall_seconds_ when it began
  absl::Duration begin_time_;
  Thread thread_;
  std::atomic<bool> part_is_done_ = false;
  absl::StatusOr<std::vector<CheckpointFile>> parts_;  // of the thread until part_is_done_
  // Rank 0 only.
  bool publishing_ = false;
  std::atomic<bool> published_ = false;
  protocol::CheckpointReport report_;  // of the thread until published_, as is the next
  absl::Status publish_status_;

  int64_t last_step_;  // of the newest checkpoint whose parts are all written
  double stall_seconds_ = 0;
};

}  // namespace anneal::trainer
