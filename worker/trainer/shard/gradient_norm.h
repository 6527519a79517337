#pragma once
// The size of a gradient, and what clipping makes of it.

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/trainer/collective/communicator.h"
#include "worker/trainer/kernels/kernels.h"
#include "worker/trainer/shard/flat_layout.h"

namespace anneal::trainer {

// The Euclidean norm of a gradient of which this rank holds `part`: sums of squares per chunk in
// double, gathered from the owners of the parts and added in the order of units and chunks, so that
// it has the same bits for every number of parts. Not finite exactly if some element is not finite,
// or too large for its square's sum. All ranks call it together, unless there is but one part.
absl::StatusOr<double> GradientNorm(Kernels& kernels, const FlatParts& gradient, const Part& part,
                                    Communicator& communicator, absl::string_view tag);

// min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_; 1 if max_norm is 0, which
// means no clipping.
double ClipCoefficient(double norm, double max_norm);

}  // namespace anneal::trainer
