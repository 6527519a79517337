#pragma once
// The size of a gradient, and what clipping makes of it.

#include "worker/trainer/kernels/kernels.h"
#include "worker/trainer/shard/flat_layout.h"

namespace anneal::trainer {

// The Euclidean norm of everything in `gradient`: sums of squares per chunk in double, added in the order of units and chunks.
// Not finite exactly if some element is not finite, or too large for its square's sum.
double GradientNorm(Kernels& kernels, const FlatBuffers& gradient);

// min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_; 1 if max_norm is 0, which means no clipping.
double ClipCoefficient(double norm, double max_norm);

}  // namespace anneal::trainer
