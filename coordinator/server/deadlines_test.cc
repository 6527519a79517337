#include "coordinator/server/deadlines.h"

#include "gmock/gmock.h"

namespace anneal {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(DeadlinesTest, TheSoonestComesFirstAndStaysUntilItIsPutAnew) {
  const absl::Time start = absl::FromUnixSeconds(1000);
  Deadlines deadlines;
  deadlines.Put("late", start + absl::Seconds(2));
  deadlines.Put("soon", start + absl::Seconds(1));
  deadlines.Put("never", absl::InfiniteFuture());
  EXPECT_THAT(deadlines.Due(start), IsEmpty());
  EXPECT_THAT(deadlines.Due(start + absl::Seconds(1)), ElementsAre("soon"));
  EXPECT_THAT(deadlines.Due(start + absl::Seconds(2)), ElementsAre("soon", "late"));
  deadlines.Put("soon", start + absl::Seconds(5));
  EXPECT_THAT(deadlines.Due(start + absl::Seconds(2)), ElementsAre("late"));
  deadlines.Put("late", absl::InfiniteFuture());
  deadlines.Remove("never");
  EXPECT_THAT(deadlines.Due(absl::InfiniteFuture()), ElementsAre("soon"));
}

}  // namespace
}  // namespace anneal
