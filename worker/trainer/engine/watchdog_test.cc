#include "worker/trainer/engine/watchdog.h"

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "worker/trainer/collective/solo_communicator.h"
#include "worker/trainer/engine/watched_communicator.h"

namespace anneal::trainer {
namespace {

using ::testing::HasSubstr;

TEST(WhereaboutsTest, KnowsTheLimitOfWhatItHasSeen) {
  SimulatedClock clock;
  Whereabouts whereabouts(clock);
  EXPECT_EQ(whereabouts.Look().limit, absl::InfiniteDuration());
  whereabouts.Enter("load", 0, Pace::kUnsteady);
  EXPECT_EQ(whereabouts.Look().limit, absl::InfiniteDuration());
  whereabouts.Enter("forward", 1, Pace::kSteady);
  EXPECT_EQ(whereabouts.Look().limit, absl::Minutes(10));  // the first of its kind
  clock.AdvanceTime(absl::Seconds(1));
  whereabouts.Enter("backward", 1, Pace::kSteady);
  whereabouts.Enter("forward", 2, Pace::kSteady);
  EXPECT_EQ(whereabouts.Look().limit, absl::Seconds(10));
  clock.AdvanceTime(absl::Seconds(3));
  EXPECT_EQ(whereabouts.Look().since, absl::Seconds(3));
  whereabouts.Enter("forward", 3, Pace::kSteady);
  EXPECT_EQ(whereabouts.Look().limit, absl::Seconds(15));
}

TEST(WhereaboutsTest, WaitingForOthersIsNoHangAndDoesNotCount) {
  SimulatedClock clock;
  Whereabouts whereabouts(clock);
  const auto solo = MakeSoloCommunicator();
  WatchedCommunicator communicator(*solo, whereabouts);
  whereabouts.Enter("reduce", 7, Pace::kSteady);
  ASSERT_TRUE(communicator.Barrier("first").ok());
  whereabouts.BeginCollective("second");
  clock.AdvanceTime(absl::Minutes(20));
  const Whereabouts::Position inside = whereabouts.Look();
  EXPECT_EQ(inside.limit, absl::InfiniteDuration());
  EXPECT_EQ(Describe(inside), "in reduce of step 7 for 20m, inside collective 2 'second'");
  whereabouts.EndCollective();
  clock.AdvanceTime(absl::Milliseconds(12'340));
  const Whereabouts::Position after = whereabouts.Look();
  EXPECT_EQ(after.limit, absl::Seconds(10));
  EXPECT_EQ(Describe(after), "in reduce of step 7 for 12.3s, after collective 2 'second'");
}

TEST(WatchdogTest, TellsAndSeesAHang) {
  SimulatedClock clock;
  Whereabouts whereabouts(clock);
  whereabouts.Enter("forward", 1, Pace::kSteady);
  whereabouts.Enter("forward", 2, Pace::kSteady);
  std::atomic<int> told = 0;
  absl::Notification hung;
  std::string where;
  const Watchdog watchdog(
      clock, whereabouts, [&](const Whereabouts::Position&) { ++told; },
      [&](const Whereabouts::Position& position) {
        if (hung.HasBeenNotified()) return;
        where = Describe(position);
        hung.Notify();
      });
  while (!hung.HasBeenNotified()) clock.AdvanceTime(absl::Seconds(1));
  EXPECT_GE(told, 1);
  EXPECT_THAT(where, HasSubstr("in forward of step 2 for "));
}

}  // namespace
}  // namespace anneal::trainer
