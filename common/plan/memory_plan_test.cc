#include "common/plan/memory_plan.h"

#include "common/base/status_matchers.h"
#include "gmock/gmock.h"

namespace anneal {
namespace {

using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;

// An embedding of 1,000 numbers, four blocks of 400 and a head of 40; two ranks of four shards, one
// cell each, all in one pass.
MemoryQuestion FullTraining() {
  MemoryQuestion question;
  question.units = {{1000, 0}, {400, 0}, {400, 0}, {400, 0}, {400, 0}, {40, 0}};
  question.logical_shards = 4;
  question.world_size = 2;
  question.tokens_together = 10;
  question.cells_together = 2;
  question.saved_bytes_per_token = 7;
  question.working_bytes = 5;
  return question;
}

TEST(MemoryPlanTest, CountsWhatEveryModeHolds) {
  const MemoryQuestion question = FullTraining();
  ANNEAL_ASSERT_OK_AND_ASSIGN(const MemoryPlan none, PlanMemory(question, Sharding::kNone));
  EXPECT_EQ(none.weights, 4 * 2640);
  EXPECT_EQ(none.moments, 8 * 2640);
  // Each block's sum, and one more buffer for the block under way; of the embedding two cells and
  // the sum; of the head the open subtree and the cell.
  EXPECT_EQ(none.gradients, 4 * (4 * 400 + 400 + 3 * 1000 + 2 * 40));
  EXPECT_EQ(none.exchange, 2 * 4 * 1000);
  EXPECT_EQ(none.snapshot, 12 * 2640 / 2);
  EXPECT_EQ(none.activations, 70);
  EXPECT_EQ(none.working, 5);
  EXPECT_EQ(none.gathered, 0);

  ANNEAL_ASSERT_OK_AND_ASSIGN(const MemoryPlan optimizer,
                              PlanMemory(question, Sharding::kOptimizer));
  EXPECT_EQ(optimizer.moments, none.moments / 2);
  EXPECT_EQ(optimizer.total(), none.total() - none.moments / 2);

  ANNEAL_ASSERT_OK_AND_ASSIGN(const MemoryPlan gradients,
                              PlanMemory(question, Sharding::kGradients));
  // Two whole buffers of a block and the head, two of the embedding, and the own part of all.
  EXPECT_EQ(gradients.gradients, 4 * (2 * 400 + 2 * 1000 + 2 * 40 + 2640 / 2));
  EXPECT_EQ(gradients.weights, none.weights);

  ANNEAL_ASSERT_OK_AND_ASSIGN(const MemoryPlan full, PlanMemory(question, Sharding::kFull));
  EXPECT_EQ(full.weights, none.weights / 2);
  EXPECT_EQ(full.gathered, 4 * (1000 + 400));  // the first block while the embedding is used
  EXPECT_EQ(full.gradients, gradients.gradients);
}

TEST(MemoryPlanTest, ATiedEmbeddingIsGatheredForTheHeadWhileTheLastBlockIsOnItsWay) {
  MemoryQuestion question = FullTraining();
  question.tied_embedding = true;
  ANNEAL_ASSERT_OK_AND_ASSIGN(const MemoryPlan full, PlanMemory(question, Sharding::kFull));
  EXPECT_EQ(full.gathered, 4 * (1000 + 40 + 400));
}

TEST(MemoryPlanTest, SeveralPassesKeepTheOpenSubtreesOfEveryUnit) {
  MemoryQuestion question = FullTraining();
  question.logical_shards = 16;  // eight of a rank: three open subtrees
  question.cells_together = 1;
  question.all_together = false;
  for (Sharding sharding : {Sharding::kNone, Sharding::kGradients}) {
    ANNEAL_ASSERT_OK_AND_ASSIGN(const MemoryPlan plan, PlanMemory(question, sharding));
    const int64_t own = sharding == Sharding::kGradients ? 2640 / 2 : 0;
    EXPECT_EQ(plan.gradients, 4 * (4 * 3 * 400 + 400 + 4 * 1000 + 4 * 40 + own));
  }
}

TEST(MemoryPlanTest, FrozenWeightsAreInComputeTypeAndOnlyFullSpreadsThem) {
  MemoryQuestion question = FullTraining();
  question.compute_bytes = 2;
  for (UnitSize& unit : question.units) unit = {.trainable = 0, .frozen = unit.trainable};
  question.units[2].trainable = 100;
  ANNEAL_ASSERT_OK_AND_ASSIGN(const MemoryPlan none, PlanMemory(question, Sharding::kNone));
  EXPECT_EQ(none.weights, 4 * 100 + 2 * 2640);
  ANNEAL_ASSERT_OK_AND_ASSIGN(const MemoryPlan optimizer,
                              PlanMemory(question, Sharding::kOptimizer));
  EXPECT_EQ(optimizer.weights, 2 * 100 + 4 * 50 + 2 * 2640);  // bf16, and masters of the own part
  ANNEAL_ASSERT_OK_AND_ASSIGN(const MemoryPlan full, PlanMemory(question, Sharding::kFull));
  EXPECT_EQ(full.weights, 4 * 50 + 2 * 1320);
  EXPECT_EQ(full.gathered, 2 * (1000 + 400));
}

TEST(MemoryPlanTest, OneRankSpreadsNothing) {
  MemoryQuestion question = FullTraining();
  question.world_size = 1;
  ANNEAL_ASSERT_OK_AND_ASSIGN(const MemoryPlan none, PlanMemory(question, Sharding::kNone));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const MemoryPlan full, PlanMemory(question, Sharding::kFull));
  EXPECT_EQ(full.total(), none.total());
  EXPECT_EQ(none.exchange, 0);
}

TEST(MemoryPlanTest, RefusesWhatIsNoJob) {
  MemoryQuestion question = FullTraining();
  question.world_size = 3;
  EXPECT_THAT(PlanMemory(question, Sharding::kNone),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("3 ranks and 4")));
  question = FullTraining();
  question.units.resize(1);
  EXPECT_THAT(PlanMemory(question, Sharding::kNone), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(ChooseShardingTest, TakesTheFirstThatFitsAndSaysWhatEachNeeds) {
  MemoryQuestion question = FullTraining();
  question.units.insert(question.units.begin() + 1, 12, {400, 0});
  int64_t before = 1 << 20;
  for (Sharding sharding :
       {Sharding::kNone, Sharding::kOptimizer, Sharding::kGradients, Sharding::kFull}) {
    ANNEAL_ASSERT_OK_AND_ASSIGN(const MemoryPlan plan, PlanMemory(question, sharding));
    ASSERT_LT(plan.total(), before);
    before = plan.total();
    ANNEAL_ASSERT_OK_AND_ASSIGN(const ShardingChoice choice,
                                ChooseSharding(question, plan.total()));
    EXPECT_EQ(choice.sharding, sharding);
    EXPECT_TRUE(choice.fits);
    EXPECT_THAT(choice.why, HasSubstr("NONE needs"));
  }
  ANNEAL_ASSERT_OK_AND_ASSIGN(const ShardingChoice choice, ChooseSharding(question, 1000));
  EXPECT_FALSE(choice.fits);
  EXPECT_THAT(choice.why, HasSubstr("FULL needs 0.00 GiB a slot; 0.00 GiB are there: none fits"));
}

}  // namespace
}  // namespace anneal
