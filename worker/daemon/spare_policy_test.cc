#include "worker/daemon/spare_policy.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal {
namespace {

using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::IsEmpty;

constexpr absl::Duration kStart = absl::Hours(1);

ProcessImage Image(const std::string& threads) {
  return {.program = "/bin/anneal-trainer", .environment = {{"OMP_NUM_THREADS", threads}}};
}
auto Spare(const std::string& slot, const std::string& threads) {
  return ::testing::AllOf(Field(&SpareRequest::slot, slot),
                          Field(&SpareRequest::image, Image(threads)));
}

class SparePolicyTest : public ::testing::Test {
 protected:
  SparePolicy policy_{{{"cpu0", Image("2")}, {"cpu1", Image("2")}}};
};

TEST_F(SparePolicyTest, EverySlotGetsOneAndOnlyOne) {
  EXPECT_THAT(policy_.Due({}, false, kStart), ElementsAre(Spare("cpu0", "2"), Spare("cpu1", "2")));
  EXPECT_THAT(policy_.Due({"cpu0"}, false, kStart), IsEmpty());  // cpu1 is on its way
  EXPECT_THAT(policy_.Due({"cpu0", "cpu1"}, false, kStart + absl::Hours(1)), IsEmpty());
}

TEST_F(SparePolicyTest, AUsedOneIsReplacedOnceNoTrainerIsOnItsWay) {
  policy_.Due({}, false, kStart);
  policy_.Started("cpu0", Image("2"));
  EXPECT_THAT(policy_.Due({"cpu1"}, true, kStart), IsEmpty());
  EXPECT_THAT(policy_.Due({"cpu1"}, false, kStart), ElementsAre(Spare("cpu0", "2")));
}

TEST_F(SparePolicyTest, TheNextOneIsMadeLikeTheLastTrainer) {
  policy_.Due({}, false, kStart);
  policy_.Started("cpu1", Image("7"));
  // The one that did not fit is still there; the keeper puts the new one in its place.
  EXPECT_THAT(policy_.Due({"cpu0", "cpu1"}, false, kStart), ElementsAre(Spare("cpu1", "7")));
  EXPECT_THAT(policy_.Due({"cpu0", "cpu1"}, false, kStart + absl::Hours(1)), IsEmpty());
}

TEST_F(SparePolicyTest, OneThatDiesIsReplacedAfterAWhile) {
  policy_.Due({}, false, kStart);
  EXPECT_THAT(policy_.Due({"cpu0"}, false, kStart + absl::Seconds(9)), IsEmpty());
  EXPECT_THAT(policy_.Due({"cpu0"}, false, kStart + absl::Seconds(10)),
              ElementsAre(Spare("cpu1", "2")));
  EXPECT_THAT(policy_.Due({"cpu0"}, false, kStart + absl::Seconds(19)), IsEmpty());
}

}  // namespace
}  // namespace anneal
