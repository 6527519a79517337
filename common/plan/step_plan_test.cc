#include "common/plan/step_plan.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/plan/permutation.h"

namespace anneal {
namespace {

using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;

std::vector<RowSize> SomeRows(int64_t count) {
  std::vector<RowSize> rows;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t tokens = static_cast<int32_t>(2 + MixKeys(99, i) % 60);
    rows.push_back({tokens, static_cast<int32_t>(MixKeys(98, i) % tokens)});
  }
  return rows;
}

StepPlan MakePlan(int64_t rows, const StepPlanOptions& options) {
  auto plan = StepPlan::Create(SomeRows(rows), options);
  ANNEAL_CHECK_OK(plan.status());
  return *std::move(plan);
}

// As in the golden file.
std::string FormatStep(const PlannedStep& step) {
  std::vector<std::string> shards;
  for (const std::vector<int64_t>& rows : step.shard_rows)
    shards.push_back(absl::StrJoin(rows, " "));
  return absl::StrCat(step.step, " ", step.epoch, " ", absl::StrJoin(shards, " | "));
}

TEST(PermutationTest, IsAPermutationForAnySizeAndKey) {
  for (int64_t size : {1, 2, 3, 4, 5, 17, 64, 65, 255, 1000, 4097}) {
    for (uint64_t key : {uint64_t{0}, uint64_t{1}, ~uint64_t{0}}) {
      const Permutation permutation(size, key);
      std::vector<bool> seen(size, false);
      for (int64_t i = 0; i < size; ++i) {
        const int64_t image = permutation.At(i);
        ASSERT_TRUE(image >= 0 && image < size);
        ASSERT_FALSE(seen[image]) << "size " << size << " key " << key;
        seen[image] = true;
      }
    }
  }
}

// A correlation test would need a tolerance; a shuffle that left half of its rows near home would
// fail this plain one.
TEST(PermutationTest, MovesRowsFar) {
  const Permutation permutation(10000, 5);
  int64_t near_home = 0;
  for (int64_t i = 0; i < 10000; ++i) near_home += std::abs(permutation.At(i) - i) < 100;
  EXPECT_LT(near_home, 400);  // 2 % expected
}

TEST(PermutationTest, HasNoMemoryOfSize) {
  const Permutation permutation(int64_t{3} << 40, 7);
  EXPECT_NE(permutation.At(0), permutation.At(1));
}

// The plan is part of what a seed means: a change here changes the bits of every job and needs a
// new version of the ledger. tests/golden/README.md tells where the file comes from and what its
// lines mean.
TEST(StepPlanTest, Golden) {
  std::ifstream file("tests/golden/step_plan/plans.txt");
  std::optional<StepPlan> plan;
  StepPlanOptions options;
  int64_t next_step = 1, plans = 0;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string word;
    words >> word;
    if (word == "plan") {
      EXPECT_TRUE(!plan.has_value() || next_step == plan->total_steps() + 1);
      words >> options.seed >> options.batch_size >> options.logical_shards >> options.epochs >>
          options.max_steps;
      ++plans;
    } else if (word == "sizes") {
      std::vector<RowSize> rows;
      RowSize row;
      for (char slash; words >> row.tokens >> slash >> row.supervised_tokens;) rows.push_back(row);
      auto made = StepPlan::Create(std::move(rows), options);
      ANNEAL_CHECK_OK(made.status());
      plan.emplace(*std::move(made));
      next_step = 1;
    } else {
      ASSERT_TRUE(plan.has_value() && next_step <= plan->total_steps()) << line;
      EXPECT_EQ(FormatStep(plan->At(next_step++)), line);
    }
  }
  EXPECT_EQ(plans, 6);
}

TEST(StepPlanTest, FindsAnyStepOfTenMillionRowsAtOnce) {
  constexpr int64_t kRows = 10'000'000;
  const StepPlan plan =
      MakePlan(kRows, {.seed = 1, .batch_size = 256, .logical_shards = 8, .epochs = 100});
  Clock& clock = Clock::Real();
  for (int64_t step :
       {int64_t{1}, plan.steps_per_epoch(), plan.total_steps() / 2, plan.total_steps()}) {
    const absl::Duration start = clock.MonotonicNow();
    const PlannedStep planned = plan.At(step);
    EXPECT_LT(clock.MonotonicNow() - start, absl::Seconds(1));
    EXPECT_EQ(planned.epoch, (step - 1) / plan.steps_per_epoch());
    EXPECT_EQ(planned.shard_rows.size(), 8);
  }
}

TEST(StepPlanTest, UsesEachRowOncePerEpochAndKnowsItsTokens) {
  for (int64_t rows : {1, 5, 16, 97}) {
    for (int64_t batch : {1, 3, 8, 200}) {
      for (int32_t shards : {1, 4, 8}) {
        const StepPlan plan =
            MakePlan(rows, {.seed = 3, .batch_size = batch, .logical_shards = shards, .epochs = 3});
        const std::vector<RowSize> sizes = SomeRows(rows);
        for (int epoch = 0; epoch < 3; ++epoch) {
          std::multiset<int64_t> used;
          for (int64_t i = 1; i <= plan.steps_per_epoch(); ++i) {
            const PlannedStep step = plan.At(epoch * plan.steps_per_epoch() + i);
            EXPECT_EQ(step.epoch, epoch);
            ASSERT_EQ(step.shard_rows.size(), shards);
            int64_t tokens = 0, supervised = 0, expected_supervised = 0, count = 0;
            for (int32_t shard = 0; shard < shards; ++shard) {
              supervised += step.shard_supervised_tokens[shard];
              for (int64_t row : step.shard_rows[shard]) {
                used.insert(row);
                tokens += sizes[row].tokens;
                expected_supervised += sizes[row].supervised_tokens;
                ++count;
              }
            }
            EXPECT_EQ(step.tokens, tokens);
            EXPECT_EQ(supervised, expected_supervised);
            EXPECT_EQ(step.supervised_tokens, supervised);
            EXPECT_EQ(count, i < plan.steps_per_epoch() ? batch : rows - (i - 1) * batch);
          }
          ASSERT_EQ(used.size(), rows);
          EXPECT_EQ(std::set<int64_t>(used.begin(), used.end()).size(), rows);
        }
      }
    }
  }
}

TEST(StepPlanTest, ShufflesAnewEachEpochAndSeed) {
  const StepPlanOptions options{.seed = 1, .batch_size = 50, .epochs = 2};
  const StepPlan plan = MakePlan(50, options);
  EXPECT_NE(plan.At(1).shard_rows, plan.At(2).shard_rows);
  StepPlanOptions other = options;
  other.seed = 2;
  EXPECT_NE(plan.At(1).shard_rows, MakePlan(50, other).At(1).shard_rows);
}

TEST(StepPlanTest, BalancesTokens) {
  const StepPlan plan = MakePlan(640, {.batch_size = 64, .logical_shards = 4, .epochs = 1});
  const std::vector<RowSize> sizes = SomeRows(640);
  for (int64_t step = 1; step <= plan.total_steps(); ++step) {
    std::vector<int64_t> load;
    for (const auto& shard : plan.At(step).shard_rows) {
      load.push_back(0);
      for (int64_t row : shard) load.back() += sizes[row].tokens;
    }
    // LPT ends within the longest row of even; with sixteen rows a shard it is far better.
    EXPECT_LE(
        *std::max_element(load.begin(), load.end()) - *std::min_element(load.begin(), load.end()),
        61);
  }
}

TEST(StepPlanTest, StopsAtMaxSteps) {
  const StepPlan plan = MakePlan(10, {.batch_size = 3, .epochs = 2, .max_steps = 5});
  EXPECT_EQ(plan.total_steps(), 5);
  EXPECT_DOUBLE_EQ(plan.EpochsAfter(0), 0);
  EXPECT_DOUBLE_EQ(plan.EpochsAfter(1), 0.3);
  EXPECT_DOUBLE_EQ(plan.EpochsAfter(4), 1);
  EXPECT_DOUBLE_EQ(plan.EpochsAfter(5), 1.3);
}

TEST(StepPlanTest, RefusesWhatItCannotPlan) {
  EXPECT_THAT(StepPlan::Create({}, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no rows")));
  EXPECT_THAT(StepPlan::Create(SomeRows(3), {.batch_size = 0}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(StepPlan::Create(SomeRows(3), {.logical_shards = 3}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("power of two")));
  EXPECT_THAT(StepPlan::Create({{.tokens = 4, .supervised_tokens = 4}}, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("row 0 has 4 tokens")));
}

}  // namespace
}  // namespace anneal
