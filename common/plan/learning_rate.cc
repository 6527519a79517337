#include "common/plan/learning_rate.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace anneal {
namespace {
constexpr double kCosineFloor = 0.1;
constexpr double kPi = 3.14159265358979323846;
}  // namespace

absl::StatusOr<ScheduleShape> ParseScheduleShape(absl::string_view name) {
  if (name == "CONSTANT") return ScheduleShape::kConstant;
  if (name == "LINEAR") return ScheduleShape::kLinear;
  if (name == "COSINE") return ScheduleShape::kCosine;
  return absl::InvalidArgumentError(
      absl::StrCat("schedule '", name, "' is not COSINE, LINEAR or CONSTANT"));
}

LearningRateSchedule::LearningRateSchedule(ScheduleShape shape, double peak, double warmup_ratio,
                                           int64_t total_steps)
    : shape_(shape), peak_(peak), total_steps_(total_steps) {
  ANNEAL_CHECK(total_steps >= 1 && warmup_ratio >= 0 && warmup_ratio <= 1);
  if (total_steps > 1)
    warmup_steps_ =
        static_cast<int64_t>(std::ceil(warmup_ratio * static_cast<double>(total_steps)));
}

double LearningRateSchedule::At(int64_t step) const {
  ANNEAL_CHECK(step >= 1 && step <= total_steps_);
  if (step <= warmup_steps_)
    return peak_ * static_cast<double>(step - 1) / static_cast<double>(warmup_steps_);
  const double progress = static_cast<double>(step - 1 - warmup_steps_) /
                          static_cast<double>(total_steps_ - warmup_steps_);
  switch (shape_) {
    case ScheduleShape::kConstant:
      return peak_;
    case ScheduleShape::kLinear:
      return peak_ * (1 - progress);
    case ScheduleShape::kCosine:
      return peak_ * (kCosineFloor + (1 - kCosineFloor) * 0.5 * (1 + std::cos(kPi * progress)));
  }
  ANNEAL_CHECK(false);
  return 0;
}

}  // namespace anneal
