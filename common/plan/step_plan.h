#pragma once
// Which rows each optimizer step uses and which logical shard computes them. The only place that
// decides it.

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace anneal {

struct RowSize {
  int32_t tokens = 0;
  int32_t supervised_tokens =
      0;  // those that count for the loss; the first token of a row never does
};

struct StepPlanOptions {
  uint64_t seed = 0;
  int64_t batch_size = 1;  // rows of a step over all shards together
  // A power of two, so that every world size that divides it owns whole subtrees of the reduction
  // tree.
  int32_t logical_shards = 1;
  int32_t epochs = 1;
  int64_t max_steps = 0;  // 0 = no limit
};

struct PlannedStep {
  int64_t step = 0;                              // from 1
  int32_t epoch = 0;                             // from 0
  std::vector<std::vector<int64_t>> shard_rows;  // [logical_shards]; a shard may be empty
  std::vector<int64_t> shard_supervised_tokens;  // [logical_shards]
  int64_t tokens = 0;
  int64_t supervised_tokens = 0;
};

// Pure and without knowledge of workers: the same rows, seed and options give the same plan
// everywhere. Each epoch uses every row exactly once, in an order keyed by (seed, epoch); its last
// batch may be smaller. A seek costs what one step costs, because the order is a keyed permutation
// that is computed where it is needed (permutation.h), never a stored shuffle. Within a step rows
// go, longest first, to the shard with the fewest tokens so far (Graham's LPT rule), and stand in
// batch order inside a shard. Immutable, thread-safe.
class StepPlan {
 public:
  // INVALID_ARGUMENT: no rows, a row without tokens, shards not a power of two, a count below 1.
  static absl::StatusOr<StepPlan> Create(std::vector<RowSize> rows, const StepPlanOptions& options);

  int64_t rows() const { return static_cast<int64_t>(rows_.size()); }
  int64_t steps_per_epoch() const { return steps_per_epoch_; }
  int64_t total_steps() const { return total_steps_; }

  // 1 <= step <= total_steps().
  PlannedStep At(int64_t step) const;
  // Epochs finished after `step`, with the fraction of the one under way: 0 for step 0.
  double EpochsAfter(int64_t step) const;

 private:
  StepPlan(std::vector<RowSize> rows, const StepPlanOptions& options);

  std::vector<RowSize> rows_;
  StepPlanOptions options_;
  int64_t steps_per_epoch_;
  int64_t total_steps_;
};

}  // namespace anneal
