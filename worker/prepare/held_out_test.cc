#include "worker/prepare/held_out.h"

#include <string>

#include "gtest/gtest.h"

namespace anneal::prepare {
namespace {

protocol::PrepareTask Task(double fraction, bool is_default) {
  protocol::PrepareTask task;
  task.validation_fraction = fraction;
  task.validation_is_default = is_default;
  return task;
}

TEST(HeldOutTest, NumberOfRows) {
  EXPECT_EQ(HeldOutRows(Task(0, false), 1000), 0);
  EXPECT_EQ(HeldOutRows(Task(0.05, false), 1000), 50);
  EXPECT_EQ(HeldOutRows(Task(0.05, false), 10), 1);
  EXPECT_EQ(HeldOutRows(Task(0.9, false), 2), 1) << "something is left to train on";
  EXPECT_EQ(HeldOutRows(Task(0.5, false), 1), 0);
}

TEST(HeldOutTest, TheDefaultWantsEnoughRows) {
  EXPECT_EQ(HeldOutRows(Task(0.05, true), 49), 0);
  EXPECT_EQ(HeldOutRows(Task(0.05, true), 50), 10);
  EXPECT_EQ(HeldOutRows(Task(0.05, true), 1000), 50);
}

std::vector<std::string> Rows(int count) {
  std::vector<std::string> rows;
  for (int i = 0; i < count; ++i) rows.push_back("row " + std::to_string(i));
  return rows;
}

std::vector<std::string> Chosen(uint64_t seed, const std::vector<std::string>& rows,
                                int64_t wanted) {
  HeldOut held_out(seed);
  std::vector<uint64_t> keys;
  for (const std::string& row : rows) keys.push_back(held_out.KeyOf(row));
  held_out.Choose(keys, wanted);
  std::vector<std::string> chosen;
  for (const std::string& row : rows) {
    if (held_out.Holds(row)) chosen.push_back(row);
  }
  return chosen;
}

TEST(HeldOutTest, ChoosesSoManyRowsBySeed) {
  const std::vector<std::string> rows = Rows(1000);
  EXPECT_EQ(Chosen(1, rows, 50).size(), 50u);
  EXPECT_EQ(Chosen(1, rows, 50), Chosen(1, rows, 50));
  EXPECT_NE(Chosen(1, rows, 50), Chosen(2, rows, 50));
  EXPECT_TRUE(Chosen(1, rows, 0).empty());
}

TEST(HeldOutTest, EqualRowsGoTogether) {
  const std::vector<std::string> rows(10, "the same");
  EXPECT_EQ(Chosen(1, rows, 1).size(), 10u);
}

}  // namespace
}  // namespace anneal::prepare
