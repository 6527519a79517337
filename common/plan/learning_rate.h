#pragma once
// The learning rate of each optimizer step: a pure function of the step's number.

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace anneal {

enum class ScheduleShape { kConstant, kLinear, kCosine };

// "CONSTANT", "LINEAR" or "COSINE"; INVALID_ARGUMENT otherwise.
absl::StatusOr<ScheduleShape> ParseScheduleShape(absl::string_view name);

// With N steps, w = ceil(warmup_ratio * N) of them warm-up, and step k counted from 1:
//   k <= w   peak * (k - 1) / w
//   CONSTANT peak
//   LINEAR   peak * (1 - p)                                   p = (k - 1 - w) / (N - w), from 0 to
//   just below 1 COSINE   peak * (0.1 + 0.9 * (1 + cos(pi * p)) / 2)
// These are the rates that transformers' Trainer uses for its k-th update with `linear`,
// `cosine_with_min_lr` (min_lr_rate = 0.1) and `constant_with_warmup`: the first update of a
// warm-up has the rate zero. Only a job of one step has no warm-up, so that it trains. Immutable,
// thread-safe.
class LearningRateSchedule {
 public:
  // peak > 0, 0 <= warmup_ratio <= 1, total_steps >= 1.
  LearningRateSchedule(ScheduleShape shape, double peak, double warmup_ratio, int64_t total_steps);

  double At(int64_t step) const;
  int64_t warmup_steps() const { return warmup_steps_; }

 private:
  ScheduleShape shape_;
  double peak_;
  int64_t total_steps_;
  int64_t warmup_steps_ = 0;
};

}  // namespace anneal
