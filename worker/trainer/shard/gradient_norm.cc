#include "worker/trainer/shard/gradient_norm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/base/status.h"

namespace anneal::trainer {

absl::StatusOr<double> GradientNorm(Kernels& kernels, const FlatParts& gradient, const Part& part,
                                    Communicator& communicator, absl::string_view tag) {
  std::vector<double> own;          // of each chunk
  std::vector<size_t> first_of{0};  // by unit, in `own`
  at::Device device = at::kCPU;
  for (const at::Tensor& flat : gradient) {
    if (flat.defined()) {
      device = flat.device();
      const std::vector<double> sums = kernels.ChunkSquareSums(flat, kChunkElements);
      own.insert(own.end(), sums.begin(), sums.end());
    }
    first_of.push_back(own.size());
  }
  at::Tensor all = at::from_blob(own.data(), {static_cast<int64_t>(own.size())}, at::kDouble);
  if (part.count > 1) {
    const at::Tensor sent = all.to(device);
    all = at::empty({part.count * sent.numel()}, sent.options());
    ANNEAL_RETURN_IF_ERROR(communicator.AllGather(sent, all, tag));
    all = all.cpu();
  }
  double sum = 0;
  for (size_t unit = 0; unit < gradient.size(); ++unit) {
    for (int owner = 0; owner < part.count; ++owner) {
      const double* sums = all.const_data_ptr<double>() + owner * own.size();
      for (size_t chunk = first_of[unit]; chunk < first_of[unit + 1]; ++chunk) sum += sums[chunk];
    }
  }
  return std::sqrt(sum);
}

double ClipCoefficient(double norm, double max_norm) {
  return max_norm == 0 ? 1.0 : std::min(1.0, max_norm / (norm + 1e-6));
}

}  // namespace anneal::trainer
