#pragma once
// AdamW (Loshchilov and Hutter, arXiv:1711.05101) on flat buffers, with its two moments.

#include <cstdint>
#include <vector>

#include "worker/trainer/shard/flat_layout.h"

namespace anneal::trainer {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;  // decoupled; applied to the tensors that the layout marks
};

// Runs torch's fused kernel, which gives each element the same bits however the tensors are split. Owner: Trainer. Guarded by
// its caller.
class AdamW {
 public:
  AdamW(const FlatLayout& layout, const AdamWOptions& options, at::Device device);

  // Update number `step`, counted from 1 (it sets the bias correction), of `values` by `gradient`.
  void Step(int64_t step, double learning_rate, FlatBuffers& values, const FlatBuffers& gradient);

  const FlatBuffers& first_moment() const { return first_moment_; }
  const FlatBuffers& second_moment() const { return second_moment_; }

 private:
  struct TensorIndex {
    int unit, index_in_unit;
  };
  static std::vector<TensorIndex> Select(const FlatLayout& layout, bool weight_decay);
  void StepSome(const std::vector<TensorIndex>& tensors, double weight_decay, int64_t step, double learning_rate,
                FlatBuffers& values, const FlatBuffers& gradient);

  const AdamWOptions options_;
  const std::vector<TensorIndex> decayed_, not_decayed_;
  FlatBuffers first_moment_;
  FlatBuffers second_moment_;
};

}  // namespace anneal::trainer
