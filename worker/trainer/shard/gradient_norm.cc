#include "worker/trainer/shard/gradient_norm.h"

#include <algorithm>
#include <cmath>

namespace anneal::trainer {

double GradientNorm(Kernels& kernels, const FlatBuffers& gradient) {
  double sum = 0;
  for (int unit = 0; unit < gradient.units(); ++unit) {
    if (!gradient.flat(unit).defined()) continue;
    for (double chunk : kernels.ChunkSquareSums(gradient.flat(unit), kChunkElements)) sum += chunk;
  }
  return std::sqrt(sum);
}

double ClipCoefficient(double norm, double max_norm) {
  return max_norm == 0 ? 1.0 : std::min(1.0, max_norm / (norm + 1e-6));
}

}  // namespace anneal::trainer
