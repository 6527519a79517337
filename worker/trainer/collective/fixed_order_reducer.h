#pragma once
// The sum over ranks whose bits do not depend on how many ranks there are.

#include <ATen/core/Tensor.h>

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/trainer/collective/communicator.h"

namespace anneal::trainer {

// The logical shards of a step are the leaves of one fixed binary tree. Each rank owns contiguous
// leaves, a power of two of them, and has already added its own subtree
// (engine/tree_accumulator.h); here the levels above are added. Every rank is owner of one part of
// the elements: the parts are exchanged all-to-all, the owner adds what it got pair by pair, level
// by level, and the sums are gathered where all ranks want them. Each element thus sees the same
// additions for every world size that divides the shards.
//
// An empty subtree is not a zero: it passes its sibling on unchanged, because -0 + 0 is +0 and
// would change a bit. Owner: Trainer. Guarded by its caller.
class FixedOrderReducer {
 public:
  // `communicator`, whose world size is a power of two, must outlive the reducer.
  explicit FixedOrderReducer(Communicator& communicator);

  // Replaces `flat_N` on every rank by the sum over the ranks r with `has_values[r]`, or by zeros
  // if there is none. N is a multiple of the world size. `has_values` is the same on all ranks;
  // what a rank without values holds is ignored.
  absl::Status Sum(at::Tensor& flat_N, const std::vector<bool>& has_values, absl::string_view tag);
  // The same, but each rank gets only its own of world_size equal parts of the sum, in `part`,
  // which may lie in `flat_N`.
  absl::Status SumPart(const at::Tensor& flat_N, const std::vector<bool>& has_values,
                       at::Tensor& part, absl::string_view tag);

 private:
  // Exchanges parts and adds them; returns this rank's part of the sum, in received_. There is more
  // than one rank, and one with values.
  absl::StatusOr<at::Tensor> SumReceived(const at::Tensor& flat_N,
                                         const std::vector<bool>& has_values,
                                         absl::string_view tag);

  Communicator& communicator_;
  at::Tensor received_;  // grows to the largest N seen
};

// The same sum in the backend's own order, by plain all-reduce: what `reduction: FAST` runs and
// FIXED_ORDER is checked against.
absl::Status SumInAnyOrder(Communicator& communicator, at::Tensor& flat_N,
                           const std::vector<bool>& has_values, absl::string_view tag);
absl::Status SumPartInAnyOrder(Communicator& communicator, at::Tensor& flat_N,
                               const std::vector<bool>& has_values, at::Tensor& part,
                               absl::string_view tag);

}  // namespace anneal::trainer
