#include "coordinator/fleet/link_choice.h"

#include <set>

#include "gmock/gmock.h"

namespace anneal {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// All pairs of some rounds, which must be disjoint in each and come once.
std::set<std::pair<int, int>> PairsOf(const std::vector<LinkRound>& rounds, int count) {
  std::set<std::pair<int, int>> pairs;
  for (const LinkRound& round : rounds) {
    EXPECT_THAT(round, ::testing::Not(IsEmpty()));
    std::set<int> in_round;
    for (const auto& [a, b] : round) {
      EXPECT_LE(0, a);
      EXPECT_LT(a, b);
      EXPECT_LT(b, count);
      EXPECT_TRUE(in_round.insert(a).second) << a << " is in two pairs of a round";
      EXPECT_TRUE(in_round.insert(b).second) << b << " is in two pairs of a round";
      EXPECT_TRUE(pairs.insert({a, b}).second) << a << " and " << b << " come twice";
    }
  }
  return pairs;
}

TEST(LinkRoundsTest, UpTo32WorkersEachPairComesOnceInAsFewRoundsAsCanBe) {
  SeededRandom random(1);
  EXPECT_THAT(PlanLinkRounds(0, false, random), IsEmpty());
  EXPECT_THAT(PlanLinkRounds(1, false, random), IsEmpty());
  EXPECT_THAT(PlanLinkRounds(2, false, random), ElementsAre(ElementsAre(std::pair(0, 1))));
  for (int count = 2; count <= 32; ++count) {
    SCOPED_TRACE(count);
    const auto rounds = PlanLinkRounds(count, false, random);
    EXPECT_THAT(PairsOf(rounds, count), SizeIs(count * (count - 1) / 2));
    EXPECT_THAT(rounds, SizeIs(count % 2 == 0 ? count - 1 : count));
  }
}

TEST(LinkRoundsTest, OfManyEachTakesPartInAFewRounds) {
  SeededRandom random(1);
  for (const int count : {33, 100, 500}) {
    SCOPED_TRACE(count);
    const auto rounds = PlanLinkRounds(count, false, random);
    const auto pairs = PairsOf(rounds, count);
    EXPECT_THAT(pairs, SizeIs(2 * count));
    for (int a = 0; a < count; ++a) {
      const int b = (a + 1) % count;
      EXPECT_EQ(pairs.count(std::minmax(a, b)), 1u) << "the ring";
    }
    EXPECT_LT(rounds.size(), 25u);
  }
}

TEST(LinkRoundsTest, AllPairsOfManyWhereThatIsAskedFor) {
  SeededRandom random(1);
  const auto rounds = PlanLinkRounds(51, true, random);
  EXPECT_THAT(PairsOf(rounds, 51), SizeIs(51 * 50 / 2));
  EXPECT_THAT(rounds, SizeIs(51));
}

MeasuredLink Link(const std::string& from, const std::string& to, double there, double back,
                  double round_trip = 0.0001) {
  MeasuredLink measured;
  measured.from = from;
  measured.link.set_worker(to);
  measured.link.set_bytes_per_second(there);
  measured.link.set_back_bytes_per_second(back);
  measured.link.set_round_trip_seconds(round_trip);
  return measured;
}

internal::ExaminationResult::Collective& AddCollective(MeasuredLink& measured, double there,
                                                       double back) {
  internal::ExaminationResult::Collective& found = *measured.link.add_collectives();
  found.set_accelerator(v1::ResourceSpec::ACCELERATOR_CPU);
  found.set_library("Gloo");
  found.set_there_bytes_per_second(there);
  found.set_back_bytes_per_second(back);
  found.set_all_to_all_there_bytes_per_second(7e8);
  found.set_all_to_all_back_bytes_per_second(6e8);
  found.set_all_reduce_bytes_per_second(5e8);
  found.set_latency_seconds(0.00025);
  return found;
}

TEST(JudgeLinksTest, BothDirectionsAreSaidAndTheSlowOneIsNamed) {
  MeasuredLink broken = Link("w3", "w4", 0, 0);
  broken.link.set_error("cannot connect to 10.0.0.4:40000");
  const auto checks =
      JudgeLinks({Link("w1", "w2", 1e9, 1.1e9), Link("w1", "w3", 1.2e9, 1e9),
                  Link("w2", "w3", 1e9, 0.2e9, 0.004), Link("w2", "w4", 0.1e9, 0.1e9), broken});
  ASSERT_THAT(checks, SizeIs(5));
  EXPECT_EQ(checks[0].verdict(), v1::Check::VERDICT_OK);
  EXPECT_EQ(checks[0].machine(), "workers/w1");
  EXPECT_EQ(checks[0].name(), "link to w2");
  EXPECT_EQ(checks[0].measured(), "w1 to w2 1000 MB/s, w2 to w1 1100 MB/s, round trip 0.10 ms");
  EXPECT_EQ(checks[2].verdict(), v1::Check::VERDICT_WARNING);
  EXPECT_EQ(
      checks[2].measured(),
      "w2 to w3 1000 MB/s, w3 to w2 200 MB/s, round trip 4.00 ms; w3 to w2 is slow: the median "
      "is 1000 MB/s");
  EXPECT_THAT(checks[3].measured(), HasSubstr("both ways are slow"));
  EXPECT_EQ(checks[4].verdict(), v1::Check::VERDICT_FAILED);
  EXPECT_THAT(checks[4].measured(), HasSubstr("10.0.0.4"));
  EXPECT_THAT(checks[4].advice(), HasSubstr("ip_local_port_range"));
}

TEST(JudgeLinksTest, CollectivesAreJudgedBesideThePlainLink) {
  std::vector<MeasuredLink> links = {Link("w1", "w2", 1e9, 1e9), Link("w1", "w3", 1e9, 1e9),
                                     Link("w2", "w3", 1e9, 1e9), Link("w2", "w4", 1e9, 1e9)};
  AddCollective(links[0], 8e8, 9e8);
  AddCollective(links[1], 1e8, 8e8);
  AddCollective(links[2], 0, 0).set_error("w3: Connection refused");
  AddCollective(links[3], 0, 0).set_skipped("busy: no CPU slot of w4 is free");
  // Of another kind, and not compared with those of CPUs.
  AddCollective(links[3], 9e10, 9e10).set_accelerator(v1::ResourceSpec::ACCELERATOR_GPU);
  const auto checks = JudgeLinks(links);
  ASSERT_THAT(checks, SizeIs(9));
  EXPECT_EQ(checks[1].name(), "CPU collectives with w2");
  EXPECT_EQ(checks[1].verdict(), v1::Check::VERDICT_OK);
  EXPECT_EQ(
      checks[1].measured(),
      "Gloo: w1 to w2 800 MB/s, w2 to w1 900 MB/s; all-to-all 700 MB/s and 600 MB/s; all-reduce "
      "500 MB/s, latency 0.25 ms");
  EXPECT_EQ(checks[3].verdict(), v1::Check::VERDICT_WARNING);
  EXPECT_THAT(checks[3].measured(), HasSubstr("w1 to w3 is slow: the median is 800 MB/s"));
  EXPECT_EQ(checks[5].verdict(), v1::Check::VERDICT_FAILED);
  EXPECT_EQ(checks[5].measured(), "w3: Connection refused");
  EXPECT_EQ(checks[7].verdict(), v1::Check::VERDICT_OK) << "the plain link's figure stays";
  EXPECT_THAT(checks[7].measured(), AllOf(HasSubstr("skipped: busy"), HasSubstr("w4")));
  EXPECT_EQ(checks[8].name(), "GPU collectives with w4");
  EXPECT_EQ(checks[8].verdict(), v1::Check::VERDICT_OK);
}

}  // namespace
}  // namespace anneal
