#include "coordinator/fleet/link_choice.h"

#include <set>

#include "gmock/gmock.h"

namespace anneal {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST(LinkChoiceTest, AFewWorkersAreMeasuredPairByPair) {
  SeededRandom random(1);
  EXPECT_THAT(ChooseLinks(0, random), IsEmpty());
  EXPECT_THAT(ChooseLinks(1, random), IsEmpty());
  EXPECT_THAT(ChooseLinks(2, random), ::testing::ElementsAre(std::pair(0, 1)));
  EXPECT_THAT(ChooseLinks(6, random), SizeIs(15));
}

TEST(LinkChoiceTest, OfManyEachTakesPartAndNoPairComesTwice) {
  SeededRandom random(1);
  for (const int count : {7, 100}) {
    const auto chosen = ChooseLinks(count, random);
    EXPECT_THAT(chosen, SizeIs(2 * count));
    EXPECT_EQ(std::set(chosen.begin(), chosen.end()).size(), chosen.size());
    std::set<int> seen;
    for (const auto& [a, b] : chosen) {
      EXPECT_LT(a, b);
      seen.insert({a, b});
    }
    EXPECT_THAT(seen, SizeIs(count));
  }
}

TEST(LinkChoiceTest, WhatIsSlowOrBrokenIsNamed) {
  const auto checks = JudgeLinks({{"w1", "w2", 1e9, 0.0001},
                                  {"w1", "w3", 1.2e9, 0.0001},
                                  {"w2", "w3", 0.2e9, 0.004},
                                  {"w3", "w4", 0, 0, "cannot connect to 10.0.0.4:40000"}});
  ASSERT_THAT(checks, SizeIs(4));
  EXPECT_EQ(checks[0].verdict(), v1::Check::VERDICT_OK);
  EXPECT_EQ(checks[0].machine(), "workers/w1");
  EXPECT_EQ(checks[0].name(), "link to w2");
  EXPECT_EQ(checks[0].measured(), "1000 MB/s, round trip 0.10 ms");
  EXPECT_EQ(checks[2].verdict(), v1::Check::VERDICT_WARNING);
  EXPECT_EQ(checks[2].measured(), "200 MB/s, round trip 4.00 ms; the median is 1000 MB/s");
  EXPECT_EQ(checks[3].verdict(), v1::Check::VERDICT_FAILED);
  EXPECT_THAT(checks[3].measured(), HasSubstr("10.0.0.4"));
  EXPECT_THAT(checks[3].advice(), HasSubstr("ip_local_port_range"));
}

}  // namespace
}  // namespace anneal
