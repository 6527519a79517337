#pragma once
// One rank of one job, from the task to the outputs.

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/format/prepared_dataset.h"
#include "common/plan/learning_rate.h"
#include "common/plan/memory_plan.h"
#include "common/plan/step_plan.h"
#include "common/protocol/child_channel.h"
#include "common/protocol/messages.h"
#include "common/storage/file_system.h"
#include "worker/trainer/checkpoint/checkpoint_files.h"
#include "worker/trainer/checkpoint/checkpointer.h"
#include "worker/trainer/checkpoint/state_slices.h"
#include "worker/trainer/collective/communicator.h"
#include "worker/trainer/engine/accelerator.h"
#include "worker/trainer/engine/evaluator.h"
#include "worker/trainer/engine/output_folder.h"
#include "worker/trainer/engine/run_record.h"
#include "worker/trainer/engine/train_step.h"
#include "worker/trainer/engine/trainer_host.h"
#include "worker/trainer/engine/whereabouts.h"
#include "worker/trainer/export/exporter.h"
#include "worker/trainer/model/decoder.h"

namespace anneal::trainer {

using LoadDecoder = std::function<absl::StatusOr<std::unique_ptr<Decoder>>(
    const protocol::TrainTask&, Accelerator&)>;
// Writes the trained values below `output_dir` in Hugging Face form. All ranks call it together;
// rank 0 writes.
using ExportValues = std::function<absl::StatusOr<Exported>(
    const protocol::TrainTask&, Accelerator&, Communicator&, Decoder&, ShardedValues&,
    const std::string& output_dir)>;

enum class RunEnd {
  kFinished,
  kPaused,  // with a checkpoint, and no outputs
};

// Refuses a task whose parts do not fit together. INVALID_ARGUMENT names the field.
absl::Status CheckTask(const protocol::TrainTask& task);

// Run() once; the object then only keeps what it made. All ranks of a job make the same calls on
// their communicators, because everything that steers them is in the task, in the data, or agreed
// on in a step. Owner: main. Guarded by its caller.
class Trainer {
 public:
  // All references must outlive it. Paths in `task` are absolute, but for those of checkpoints.
  struct Surroundings {
    std::string storage_root;  // what the paths of checkpoints start from
    FileSystem& files;         // of checkpoints
    Accelerator& accelerator;
    Communicator& communicator;
    TrainerHost& host;
    Whereabouts& whereabouts;
    Clock& clock;
    LoadDecoder load_decoder;
    ExportValues export_values;
  };
  Trainer(protocol::TrainTask task, Surroundings surroundings);
  ~Trainer();

  absl::StatusOr<RunEnd> Run();

 private:
  absl::StatusOr<RunEnd> RunToEnd();
  absl::Status Load();
  absl::Status OpenData();
  absl::Status InitialiseValues();
  // Goes on from the newest checkpoint that is whole, if there is one; then step_ is its step.
  absl::Status Resume();
  // The records that go with the checkpoint, or empty ones. Rank 0 only.
  absl::Status OpenRecords(const std::optional<CheckpointReader>& checkpoint);
  void PrepareCheckpoints();
  // What this rank holds of values and moments in logical shards [first, last), which it holds
  // wholly.
  std::vector<StateSlice> StateOf(int first, int last) const;
  // Returns what the ranks have agreed to end with; a run that is paused may have reached its last
  // step.
  absl::StatusOr<protocol::StopMode> TrainAllSteps();
  absl::StatusOr<StepVote> TrainOneStep(int64_t step);
  absl::Status Evaluate(int64_t step);
  absl::Status WriteOutputs();
  // How much memory this rank will need for training, as common/plan says.
  absl::StatusOr<MemoryPlan> PlannedMemory() const;
  // What is not part of a step.
  void EnterPhase(absl::string_view phase);
  void ReportRank(bool now);
  bool is_first_rank() const { return task_.rank == 0; }

  const protocol::TrainTask task_;
  const Surroundings around_;

  // Made by Load, in this order.
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<PreparedDataset> train_data_, validation_data_;
  std::optional<StepPlan> plan_;
  std::optional<LearningRateSchedule> schedule_;
  std::optional<BatchAssembler> assembler_;
  std::optional<FlatLayout> layout_, frozen_layout_;
  std::optional<ShardedValues> values_;
  std::optional<AdamW> optimizer_;
  std::optional<PhaseTimer> timer_;
  std::optional<TrainStep> train_step_;
  std::unique_ptr<Evaluator> evaluator_;      // null without validation data
  std::optional<Checkpointer> checkpointer_;  // none if the task has no place for checkpoints
  // Rank 0 only.
  std::unique_ptr<OutputFolder> outputs_;
  std::unique_ptr<LedgerWriter> ledger_;

  int64_t step_ = 0;  // finished
  RunRecord record_;
  protocol::RankReport phases_;
  absl::Duration last_rank_report_ = absl::ZeroDuration();
};

}  // namespace anneal::trainer
