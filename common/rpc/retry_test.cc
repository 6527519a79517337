#include "common/rpc/retry.h"

#include "common/base/status_matchers.h"
#include "common/rpc/status.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOk;
using ::anneal::testing::StatusIs;

// Who sleeps moves the time on.
class SteppingClock : public SimulatedClock {
 public:
  void Sleep(absl::Duration duration) override { AdvanceTime(duration); }
};

TEST(BackoffTest, BoundsDoubleUpToTheMaximumAndResetStartsOver) {
  // Always the upper end of the interval.
  class Highest : public Random {
    uint64_t Next() override { return ~uint64_t{0}; }
  } random;
  Backoff backoff({absl::Seconds(1), absl::Seconds(3)}, random);
  const auto near = [](absl::Duration d, double s) {
    return absl::AbsDuration(d - absl::Seconds(s)) < absl::Milliseconds(1);
  };
  EXPECT_TRUE(near(backoff.NextDelay(), 1));
  EXPECT_TRUE(near(backoff.NextDelay(), 2));
  EXPECT_TRUE(near(backoff.NextDelay(), 3));
  EXPECT_TRUE(near(backoff.NextDelay(), 3));
  backoff.Reset();
  EXPECT_TRUE(near(backoff.NextDelay(), 1));
}

TEST(BackoffTest, DelaysAreSpreadOverTheWholeInterval) {
  SeededRandom random(1);
  int low = 0;
  for (int i = 0; i < 1000; ++i) {
    const absl::Duration delay = Backoff({absl::Seconds(1), absl::Seconds(1)}, random).NextDelay();
    ASSERT_GE(delay, absl::ZeroDuration());
    ASSERT_LT(delay, absl::Seconds(1));
    low += delay < absl::Milliseconds(500);
  }
  EXPECT_NEAR(low, 500, 80);
}

TEST(RetryCallTest, RetriesWhatMayPassAndOnlyThat) {
  SteppingClock clock;
  SeededRandom random(7);
  int calls = 0;
  EXPECT_THAT(
      RetryCall({}, absl::Minutes(1), clock, random,
                [&] { return ++calls < 4 ? absl::UnavailableError("away") : absl::OkStatus(); }),
      IsOk());
  EXPECT_EQ(calls, 4);
  calls = 0;
  EXPECT_THAT(RetryCall({}, absl::Minutes(1), clock, random,
                        [&] {
                          ++calls;
                          return absl::NotFoundError("no");
                        }),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(calls, 1);
}

TEST(RetryCallTest, GivesUpWithinTheBudgetAndHeedsTheServersDelay) {
  SteppingClock clock;
  SeededRandom random(7);
  const absl::Duration start = clock.MonotonicNow();
  int calls = 0;
  EXPECT_THAT(RetryCall({}, absl::Minutes(1), clock, random,
                        [&] {
                          ++calls;
                          return WithRetryDelay(absl::UnavailableError("busy"), absl::Seconds(25));
                        }),
              StatusIs(absl::StatusCode::kUnavailable, "busy"));
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(clock.MonotonicNow() - start, absl::Seconds(50));
}

}  // namespace
}  // namespace anneal
