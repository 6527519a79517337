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
  EXPECT_EQ(whereabouts.Look().limit, absl::Seconds(8));  // and replaced within 10 s
  clock.AdvanceTime(absl::Seconds(3));
  EXPECT_EQ(whereabouts.Look().since, absl::Seconds(3));
  whereabouts.Enter("forward", 3, Pace::kSteady);
  EXPECT_EQ(whereabouts.Look().limit, absl::Seconds(13));
}

TEST(WhereaboutsTest, WaitsForOthersAreCountedApart) {
  SimulatedClock clock;
  Whereabouts whereabouts(clock);
  const auto solo = MakeSoloCommunicator();
  WatchedCommunicator communicator(*solo, whereabouts);
  whereabouts.Enter("reduce", 7, Pace::kSteady);
  ASSERT_TRUE(communicator.Barrier("first").ok());
  whereabouts.BeginCollective("second");
  clock.AdvanceTime(absl::Minutes(20));
  const Whereabouts::Position inside = whereabouts.Look();
  EXPECT_EQ(inside.limit, absl::Seconds(8));  // the first took no time
  EXPECT_TRUE(inside.overdue());
  EXPECT_EQ(Describe(inside), "in reduce of step 7 for 20m, inside collective 2 'second'");
  whereabouts.EndCollective();
  clock.AdvanceTime(absl::Milliseconds(7'340));
  const Whereabouts::Position after = whereabouts.Look();
  EXPECT_EQ(after.limit, absl::Seconds(8));
  EXPECT_FALSE(after.overdue());
  EXPECT_EQ(Describe(after), "in reduce of step 7 for 7.3s, after collective 2 'second'");
  whereabouts.BeginCollective("third");
  EXPECT_EQ(whereabouts.Look().limit, absl::Minutes(100) - absl::Seconds(2));
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

TEST(WatchdogTest, LeavesAWaitThatIsOverdueToTheCoordinator) {
  SimulatedClock clock;
  Whereabouts whereabouts(clock);
  whereabouts.Enter("reduce", 1, Pace::kSteady);
  whereabouts.BeginCollective("first");
  whereabouts.EndCollective();
  whereabouts.BeginCollective("second");
  absl::Notification overdue;
  std::atomic<bool> hung = false;
  {
    const Watchdog watchdog(
        clock, whereabouts,
        [&](const Whereabouts::Position& position) {
          if (position.overdue() && !overdue.HasBeenNotified()) overdue.Notify();
        },
        [&](const Whereabouts::Position&) { hung = true; });
    while (!overdue.HasBeenNotified()) clock.AdvanceTime(absl::Seconds(1));
  }
  EXPECT_FALSE(hung);
}

}  // namespace
}  // namespace anneal::trainer
