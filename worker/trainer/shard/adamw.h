#pragma once
// AdamW (Loshchilov and Hutter, arXiv:1711.05101) on parts of flat buffers, with its two moments.

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

// Of one rank's part of the values. Runs torch's fused kernel, which gives each element the same
// bits however the tensors are split: so all ranks together do what one would. Owner: Trainer.
// Guarded by its caller.
class AdamW {
 public:
  AdamW(const FlatLayout& layout, const Part& part, const AdamWOptions& options, at::Device device);

  // Update number `step`, counted from 1 (it sets the bias correction), of `values` by `gradient`,
  // both of the same part.
  void Step(int64_t step, double learning_rate, const FlatParts& values, const FlatParts& gradient);

  const FlatParts& first_moment() const { return first_moment_; }
  const FlatParts& second_moment() const { return second_moment_; }

 private:
  // What the part holds of one tensor.
  struct Owned {
    int unit;
    Segment segment;
    at::Tensor In(const FlatParts& parts) const {
      return parts[unit].narrow(0, segment.first, segment.elements);
    }
  };
  static std::vector<Owned> Select(const FlatLayout& layout, const Part& part, bool weight_decay);
  void StepSome(const std::vector<Owned>& tensors, double weight_decay, int64_t step,
                double learning_rate, const FlatParts& values, const FlatParts& gradient);

  const AdamWOptions options_;
  const std::vector<Owned> decayed_, not_decayed_;
  const FlatParts first_moment_;
  const FlatParts second_moment_;
};

}  // namespace anneal::trainer
