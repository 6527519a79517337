#pragma once
// One optimizer step, from rows to new values.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/plan/step_plan.h"
#include "common/protocol/messages.h"
#include "worker/trainer/collective/communicator.h"
#include "worker/trainer/data/batch_assembler.h"
#include "worker/trainer/data/ledger.h"
#include "worker/trainer/engine/phase_timer.h"
#include "worker/trainer/engine/step_gradient.h"
#include "worker/trainer/model/decoder.h"
#include "worker/trainer/shard/adamw.h"
#include "worker/trainer/shard/flat_layout.h"
#include "worker/trainer/shard/sharded_values.h"

namespace anneal::trainer {

struct TrainStepOptions {
  uint64_t seed = 0;         // of dropout
  double max_grad_norm = 0;  // 0 = no clipping
  Reduction reduction = Reduction::kFixedOrder;
  // Cells pass through the blocks together as long as they have at most so many tokens: activations
  // are kept for so many, or for one cell if that is longer. Changes no bit.
  int64_t tokens_together = 0;
};

// What a rank has to say to the others besides its losses, before or while a step runs.
struct StepVote {
  int stop = 0;               // how it was told to stop: larger numbers win
  bool checkpoint = false;    // whether a checkpoint should be taken
  bool part_is_done = false;  // whether its part of the checkpoint under way is written
};

// The same on all ranks.
struct StepOutcome {
  LedgerEntry entry;
  // The largest stop, whether any rank wants a checkpoint, whether all parts are done: so that all
  // ranks act together.
  StepVote agreed;
};

// Runs the steps of one rank on what the Trainer owns. All ranks run the same steps in the same
// order. After an error the values are as they were before the step, unless it came while they were
// gathered after it, and the communicator may be broken. Guarded by its caller.
class TrainStep {
 public:
  // All references must outlive it.
  struct Parts {
    Decoder& decoder;
    const FlatLayout& layout;
    ShardedValues& values;
    AdamW& optimizer;  // of the values' part
    const BatchAssembler& assembler;
    Communicator& communicator;
    Accelerator& accelerator;
    PhaseTimer& timer;
  };
  TrainStep(const Parts& parts, const TrainStepOptions& options);

  // Adds the seconds of each phase to `phases`: whatever the sharding, the time in which it waits
  // for other ranks or for what they send is `reduce`, so that the others are its own work. A loss
  // or gradient that is not finite is FAILED_PRECONDITION with reason NON_FINITE_LOSS, on all
  // ranks, before anything was updated.
  absl::StatusOr<StepOutcome> Run(const PlannedStep& planned, double learning_rate,
                                  const StepVote& vote, protocol::RankReport& phases);

 private:
  // The contiguous shards that this rank computes: [first, last).
  struct ShardRange {
    int first, last;
  };
  ShardRange OwnShards(const PlannedStep& planned) const;
  // The largest number of passes that a rank has to make.
  absl::StatusOr<size_t> AgreeOnPasses(size_t own, int64_t step);
  absl::StatusOr<std::vector<std::vector<MicroBatch>>> Fetch(const PlannedStep& planned) const;
  // The sum of losses of each of the rank's shards; the gradient is then in gradient_, not reduced
  // or only in part.
  absl::StatusOr<std::vector<double>> ForwardBackward(
      const std::vector<std::vector<MicroBatch>>& shards, int64_t step, double loss_scale,
      protocol::RankReport& phases);
  struct Agreed {
    double loss_sum;  // of all shards, in shard order
    StepVote vote;
  };
  absl::StatusOr<Agreed> ShareLosses(const std::vector<double>& own_losses, const StepVote& vote,
                                     int64_t step);

  const Parts parts_;
  const TrainStepOptions options_;
  StepGradient gradient_;
};

}  // namespace anneal::trainer
