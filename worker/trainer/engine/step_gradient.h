#pragma once
// The gradient of a step: from the sums of a rank's cells to what the optimizer takes.

#include <vector>

#include "absl/status/status.h"
#include "common/plan/sharding.h"
#include "common/plan/step_plan.h"
#include "worker/trainer/collective/communicator.h"
#include "worker/trainer/collective/fixed_order_reducer.h"
#include "worker/trainer/engine/tree_accumulator.h"
#include "worker/trainer/shard/flat_layout.h"

namespace anneal::trainer {

enum class Reduction {
  kFixedOrder,  // the same bits for every world size
  kFast,        // the backend's own order
};

// Sums each unit over the ranks, from the last unit to the first, and keeps this rank's part of the
// sum: with Sharding::kNone all of it. Up to kOptimizer the sums stay in the whole buffers that the
// cells were added in; from kGradients on a rank holds no more than its part, and the whole buffer
// is free for the next unit as soon as one is reduced. Owner: TrainStep. Guarded by its caller.
class StepGradient {
 public:
  struct Options {
    Sharding sharding = Sharding::kNone;
    Reduction reduction = Reduction::kFixedOrder;
  };
  // `layout` and `communicator` must outlive it.
  StepGradient(const FlatLayout& layout, const Part& part, const Options& options,
               Communicator& communicator, at::Device device);

  void Begin(const PlannedStep& step);
  // Where the cells of this rank's shards go.
  TreeAccumulator& sums() { return sums_; }
  // The unit and those above it that were not yet: to them no more will be added. All ranks reduce
  // all units in the same order.
  absl::Status ReduceDownTo(int unit);
  // What this rank keeps, by unit, once all are reduced.
  const FlatParts& parts() const { return parts_; }
  // The end of the step.
  void GiveBack();

 private:
  absl::Status Reduce(int unit);
  // Sums `flat` over the ranks: wholly, if `part` is that, else this rank's part of it.
  absl::Status SumOverRanks(at::Tensor& flat, at::Tensor& part, absl::string_view tag);

  const FlatLayout& layout_;
  const Part part_;
  const Options options_;
  Communicator& communicator_;
  FixedOrderReducer reducer_;
  TreeAccumulator sums_;
  FlatParts parts_;
  std::vector<UnitBuffer> roots_;  // by unit, where parts_ lie in them

  // Of the step under way.
  int64_t step_ = 0;
  int shards_ = 0;                // of this rank
  std::vector<bool> has_values_;  // by rank: whether its shards hold anything that counts
  int next_ = -1;                 // the unit that is reduced next
};

}  // namespace anneal::trainer
