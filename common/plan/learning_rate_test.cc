#include "common/plan/learning_rate.h"

#include "common/base/status_matchers.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOkAndHolds;
using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;

// One unit in the last place of 1.0, four times: a handful of double operations in another order.
constexpr double kRounding = 1e-15;

TEST(LearningRateTest, FollowsTransformers) {
  // transformers 5.23: [f(k - 1) for k in (1, 3, 4, 5, 20)] of the lambdas behind
  // get_linear_schedule_with_warmup and
  // get_cosine_with_min_lr_schedule_with_warmup(min_lr_rate=0.1), 20 steps, 3 of them warm-up.
  const LearningRateSchedule linear(ScheduleShape::kLinear, 1.0, 0.15, 20);
  EXPECT_EQ(linear.warmup_steps(), 3);
  EXPECT_EQ(linear.At(1), 0);
  EXPECT_NEAR(linear.At(3), 0.6666666666666666, kRounding);
  EXPECT_NEAR(linear.At(4), 1.0, kRounding);
  EXPECT_NEAR(linear.At(5), 0.9411764705882353, kRounding);
  EXPECT_NEAR(linear.At(20), 0.058823529411764705, kRounding);
  const LearningRateSchedule cosine(ScheduleShape::kCosine, 1.0, 0.15, 20);
  EXPECT_EQ(cosine.At(1), 0);
  EXPECT_NEAR(cosine.At(3), 0.6666666666666666, kRounding);
  EXPECT_NEAR(cosine.At(4), 1.0, kRounding);
  EXPECT_NEAR(cosine.At(5), 0.9923378948577558, kRounding);
  EXPECT_NEAR(cosine.At(20), 0.1076621051422442, kRounding);
}

TEST(LearningRateTest, StaysAtThePeakAfterWarmup) {
  const LearningRateSchedule schedule(ScheduleShape::kConstant, 2e-4, 0.25, 16);
  EXPECT_EQ(schedule.warmup_steps(), 4);
  EXPECT_DOUBLE_EQ(schedule.At(2), 0.5e-4);
  EXPECT_DOUBLE_EQ(schedule.At(5), 2e-4);
  EXPECT_DOUBLE_EQ(schedule.At(16), 2e-4);
}

TEST(LearningRateTest, EveryStepButTheFirstOfAWarmupTrains) {
  for (ScheduleShape shape :
       {ScheduleShape::kConstant, ScheduleShape::kLinear, ScheduleShape::kCosine}) {
    for (int64_t steps : {1, 2, 3, 33}) {
      for (double ratio : {0.0, 0.03, 1.0}) {
        const LearningRateSchedule schedule(shape, 1.0, ratio, steps);
        for (int64_t step = 1; step <= steps; ++step) {
          const bool trains = step > 1 || schedule.warmup_steps() == 0;
          EXPECT_EQ(schedule.At(step) > 0, trains) << "step " << step << " of " << steps;
          EXPECT_LE(schedule.At(step), 1);
        }
        EXPECT_EQ(schedule.warmup_steps() == 0, steps == 1 || ratio == 0);
      }
    }
  }
}

TEST(LearningRateTest, KnowsItsNames) {
  EXPECT_THAT(ParseScheduleShape("COSINE"), IsOkAndHolds(ScheduleShape::kCosine));
  EXPECT_THAT(ParseScheduleShape("cosine"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'cosine'")));
}

}  // namespace
}  // namespace anneal
