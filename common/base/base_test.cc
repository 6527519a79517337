#include <atomic>
#include <set>

#include "absl/synchronization/notification.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/base/thread.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOkAndHolds;
using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;

absl::StatusOr<int> Half(int x) {
  if (x % 2 != 0) return absl::InvalidArgumentError("odd");
  return x / 2;
}
absl::StatusOr<int> Quarter(int x) {
  ANNEAL_ASSIGN_OR_RETURN(int half, Half(x));
  return Half(half);
}

TEST(StatusTest, MacrosPassValuesAndErrorsOn) {
  EXPECT_THAT(Quarter(8), IsOkAndHolds(2));
  EXPECT_THAT(Quarter(6), StatusIs(absl::StatusCode::kInvalidArgument, "odd"));
}

TEST(StatusTest, AnnotateKeepsCodeAndReason) {
  absl::Status status = WithReason(absl::NotFoundError("no file"), "FILE_NOT_FOUND");
  absl::Status annotated = Annotate(status, "reading train.jsonl");
  EXPECT_THAT(annotated, StatusIs(absl::StatusCode::kNotFound, "reading train.jsonl: no file"));
  EXPECT_EQ(ReasonOf(annotated), "FILE_NOT_FOUND");
}

TEST(StatusTest, ExceptionsBecomeStatuses) {
  EXPECT_THAT(CatchAll("parse", []() -> absl::Status { throw std::runtime_error("bad"); }),
              StatusIs(absl::StatusCode::kInternal, "parse: bad"));
  EXPECT_THAT(CatchAll("load", []() -> absl::Status { throw std::bad_alloc(); }),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("out of memory")));
}

TEST(RandomTest, UlidsSortByTimeAndAreUnique) {
  SeededRandom random(1);
  const absl::Time t = absl::FromUnixMillis(1'700'000'000'000);
  EXPECT_LT(NewUlid(t, random), NewUlid(t + absl::Milliseconds(1), random));
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::string id = NewUlid(t, random);
    EXPECT_TRUE(IsUlid(id)) << id;
    EXPECT_TRUE(seen.insert(id).second);
  }
  EXPECT_FALSE(IsUlid("01h"));
  EXPECT_FALSE(IsUlid("01hf7yat00ilou00000000000u"));
}

TEST(ClockTest, SimulatedTimeDecidesTimeouts) {
  SimulatedClock clock;
  absl::Mutex mu;
  std::atomic<bool> done = false;
  bool flag = false;
  Thread waiter("waiter", [&] {
    absl::MutexLock lock(&mu);
    EXPECT_FALSE(clock.AwaitWithTimeout(&mu, absl::Condition(&flag), absl::Hours(1)));
    done = true;
  });
  while (!done) clock.AdvanceTime(absl::Minutes(30));
  waiter.Join();
}

TEST(ThreadTest, GateWaitsForWorkAndRefusesNew) {
  Gate gate;
  absl::Notification inside, leave;
  Thread worker("worker", [&] {
    Gate::Pass pass(gate);
    EXPECT_TRUE(pass);
    inside.Notify();
    leave.WaitForNotification();
  });
  inside.WaitForNotification();
  std::atomic<bool> closed = false;
  Thread closer("closer", [&] {
    gate.CloseAndWait();
    closed = true;
  });
  EXPECT_FALSE(closed);
  leave.Notify();
  closer.Join();
  EXPECT_FALSE(Gate::Pass(gate));
}

TEST(Sha256Test, KnownVectors) {
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_THAT(Sha256OfFile("/nonexistent"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nonexistent")));
}

}  // namespace
}  // namespace anneal
