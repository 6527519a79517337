#include "worker/trainer/kernels/philox.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal::trainer {
namespace {

using ::testing::ElementsAre;

// Vectors of Random123's kat_vectors, philox4x32 with 10 rounds.
TEST(PhiloxTest, GivesThePublishedNumbers) {
  EXPECT_THAT(Philox({{0, 0}}, {{0, 0, 0, 0}}).word,
              ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(Philox({{~0u, ~0u}}, {{~0u, ~0u, ~0u, ~0u}}).word,
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(
      Philox({{0xa4093822, 0x299f31d0}}, {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}).word,
      ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(PhiloxTest, KeysDifferWithEveryPartOfTheMeaning) {
  const auto word = [](PhiloxKey key) { return uint64_t{key.word[0]} << 32 | key.word[1]; };
  const uint64_t base = word(MakePhiloxKey(1, 2, "a"));
  EXPECT_EQ(word(MakePhiloxKey(1, 2, "a")), base);
  EXPECT_NE(word(MakePhiloxKey(2, 2, "a")), base);
  EXPECT_NE(word(MakePhiloxKey(1, 3, "a")), base);
  EXPECT_NE(word(MakePhiloxKey(1, 2, "b")), base);
}

TEST(PhiloxTest, UniformsStayBelowOne) {
  EXPECT_EQ(PhiloxUniform(0), 0.0f);
  EXPECT_LT(PhiloxUniform(~0u), 1.0f);
}

}  // namespace
}  // namespace anneal::trainer
