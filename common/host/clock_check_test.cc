#include "common/host/clock_check.h"

#include "gmock/gmock.h"

namespace anneal {
namespace {

using ::testing::HasSubstr;

constexpr absl::Time kNow = absl::FromUnixSeconds(1'700'000'000);

// Of a clock that is `ahead`, after one message each way, each `delay` on its way.
v1::Check CheckOf(absl::Duration ahead, absl::Duration delay) {
  ClockBounds bounds;
  bounds.SentAt(kNow, kNow + delay + ahead);
  bounds.ReceivedAt(kNow + 2 * delay, kNow + delay + ahead);
  return bounds.ToCheck("the coordinator");
}

TEST(ClockCheckTest, AClockThatIsRightIsOk) {
  const v1::Check check = CheckOf(absl::ZeroDuration(), absl::Milliseconds(20));
  EXPECT_EQ(check.verdict(), v1::Check::VERDICT_OK);
  EXPECT_EQ(check.measured(), "at most 20ms from the coordinator's");
}

TEST(ClockCheckTest, OneThatIsAheadOrBehindIsNot) {
  const v1::Check ahead = CheckOf(absl::Seconds(5), absl::Milliseconds(20));
  EXPECT_EQ(ahead.verdict(), v1::Check::VERDICT_WARNING);
  EXPECT_EQ(ahead.measured(), "at least 4.98s ahead of the coordinator's");
  EXPECT_THAT(ahead.advice(), HasSubstr("NTP"));
  const v1::Check behind = CheckOf(-absl::Minutes(5), absl::Milliseconds(20));
  EXPECT_EQ(behind.verdict(), v1::Check::VERDICT_FAILED);
  EXPECT_EQ(behind.measured(), "at least 4m59.98s behind the coordinator's");
}

TEST(ClockCheckTest, SlowMessagesAccuseNobody) {
  EXPECT_EQ(CheckOf(absl::Seconds(2), absl::Seconds(3)).verdict(), v1::Check::VERDICT_OK);
}

TEST(ClockCheckTest, TheFastestMessagesCount) {
  ClockBounds bounds;
  bounds.SentAt(kNow, kNow + absl::Seconds(9));
  bounds.SentAt(kNow, kNow + absl::Seconds(4));
  bounds.ReceivedAt(kNow, kNow + absl::Seconds(1));
  bounds.ReceivedAt(kNow, kNow + absl::Seconds(2));
  EXPECT_EQ(bounds.ToCheck("the coordinator").measured(), "at least 2s ahead of the coordinator's");
}

}  // namespace
}  // namespace anneal
