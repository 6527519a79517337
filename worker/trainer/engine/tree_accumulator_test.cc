#include "worker/trainer/engine/tree_accumulator.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>

#include <cmath>
#include <set>

#include "gmock/gmock.h"

namespace anneal::trainer {
namespace {

constexpr int kEmptyUnit = 0, kWeights = 1, kMoreWeights = 2, kBias = 3;

// Two units that are laid out alike, one that is not, and one without tensors.
const FlatLayout& SomeLayout() {
  static const FlatLayout* layout =
      new FlatLayout({{.name = "embed"},
                      {.name = "a", .parameters = {{.name = "a.w", .shape = {1000}}}},
                      {.name = "b", .parameters = {{.name = "b.w", .shape = {1000}}}},
                      {.name = "head", .parameters = {{.name = "c", .shape = {7}}}}},
                     1, 64);
  return *layout;
}

// Numbers of very different size, so that another order of additions gives other bits.
at::Tensor Gradient(int unit, int shard, int micro_batch) {
  at::Generator generator =
      at::detail::createCPUGenerator(10'000 * unit + 100 * shard + micro_batch);
  const int64_t size = unit == kBias ? 7 : 1000;
  return at::randn({size}, generator).mul(std::pow(10.0, (3 * shard + micro_batch) % 7));
}

void AddCell(TreeAccumulator& accumulator, int unit, int shard, int micro_batch) {
  UnitBuffer cell = accumulator.Take(unit);
  if (!cell.views.empty()) cell.views[0].copy_(Gradient(unit, shard, micro_batch));
  accumulator.Add(unit, shard, /*ends_shard=*/false, std::move(cell));
}

UnitBuffer TakeRootAndEndStep(TreeAccumulator& accumulator, int wanted, int shards) {
  UnitBuffer root;
  for (int unit = 0; unit < 4; ++unit) {
    UnitBuffer buffer = accumulator.TakeRoot(unit, shards);
    if (unit == wanted) root = buffer;
    accumulator.GiveBack(unit, std::move(buffer));
  }
  return root;
}

// Runs a step in which shard s has micro_batches[s] micro-batches, one cell after another; returns
// the root of kWeights.
at::Tensor Accumulate(TreeAccumulator& accumulator, const std::vector<int>& micro_batches) {
  const int shards = static_cast<int>(micro_batches.size());
  for (int shard = 0; shard < shards; ++shard) {
    for (int i = 0; i < micro_batches[shard]; ++i) {
      for (int unit = 0; unit < 4; ++unit) AddCell(accumulator, unit, shard, i);
    }
  }
  return TakeRootAndEndStep(accumulator, kWeights, shards).views[0].clone();
}

TEST(TreeAccumulatorTest, AddsNeighboursLevelByLevel) {
  TreeAccumulator accumulator(SomeLayout(), at::kCPU);
  const auto g = [](int shard) { return Gradient(kWeights, shard, 0); };
  EXPECT_TRUE(at::equal(Accumulate(accumulator, {1}), g(0)));
  EXPECT_TRUE(at::equal(Accumulate(accumulator, {1, 1}), g(0).add(g(1))));
  EXPECT_TRUE(at::equal(Accumulate(accumulator, {1, 1, 1, 1}), g(0).add(g(1)).add(g(2).add(g(3)))));
  // Not the same as one after the other: the test would not notice a wrong order otherwise.
  EXPECT_FALSE(at::equal(g(0).add(g(1)).add(g(2)).add(g(3)), g(0).add(g(1)).add(g(2).add(g(3)))));
}

TEST(TreeAccumulatorTest, AddsMicroBatchesOfAShardInOrder) {
  TreeAccumulator accumulator(SomeLayout(), at::kCPU);
  const auto g = [](int shard, int micro_batch) { return Gradient(kWeights, shard, micro_batch); };
  EXPECT_TRUE(
      at::equal(Accumulate(accumulator, {3, 1}), g(0, 0).add(g(0, 1)).add(g(0, 2)).add(g(1, 0))));
}

TEST(TreeAccumulatorTest, EmptyShardsPassTheirSiblingOn) {
  TreeAccumulator accumulator(SomeLayout(), at::kCPU);
  EXPECT_TRUE(at::equal(Accumulate(accumulator, {0, 1, 0, 0}), Gradient(kWeights, 1, 0)));
  EXPECT_TRUE(at::equal(Accumulate(accumulator, {1, 0, 0, 1}),
                        Gradient(kWeights, 0, 0).add(Gradient(kWeights, 3, 0))));
  EXPECT_EQ(Accumulate(accumulator, {0, 0}).numel(), 1000);  // of whatever
}

// As when cells pass through the decoder block by block, from the last to the first.
TEST(TreeAccumulatorTest, TheOrderOfUnitsDoesNotMatter) {
  const std::vector<int> micro_batches = {2, 0, 1, 3};
  TreeAccumulator one_by_one(SomeLayout(), at::kCPU), together(SomeLayout(), at::kCPU);
  const at::Tensor expected = Accumulate(one_by_one, micro_batches);
  for (int unit : {kBias, kMoreWeights, kWeights, kEmptyUnit}) {
    for (int shard = 0; shard < 4; ++shard) {
      for (int i = 0; i < micro_batches[shard]; ++i) AddCell(together, unit, shard, i);
    }
  }
  EXPECT_TRUE(at::equal(together.TakeRoot(kWeights, 4).views[0], expected));
  EXPECT_FALSE(together.TakeRoot(kEmptyUnit, 4).flat.defined());
}

TEST(TreeAccumulatorTest, ReusesItsMemoryBetweenStepsAndUnitsOfAKind) {
  TreeAccumulator accumulator(SomeLayout(), at::kCPU);
  std::set<void*> addresses;
  for (int step = 0; step < 3; ++step) {
    for (int unit : {kWeights, kMoreWeights}) {
      for (int shard = 0; shard < 8; ++shard) {
        UnitBuffer cell = accumulator.Take(unit);
        addresses.insert(cell.flat.data_ptr());
        accumulator.Add(unit, shard, /*ends_shard=*/true, std::move(cell));
      }
    }
    TakeRootAndEndStep(accumulator, kWeights, 8);
  }
  // log2(8) + 1 for the unit under way, and one for the sum of the other.
  EXPECT_EQ(addresses.size(), 5);
}

// As when a unit's gradient goes to its owners before the next unit's is computed.
TEST(TreeAccumulatorTest, AUnitThatIsTakenAtOnceLeavesItsMemoryToTheNext) {
  TreeAccumulator accumulator(SomeLayout(), at::kCPU);
  std::set<void*> addresses;
  for (int unit : {kMoreWeights, kWeights}) {
    for (int shard = 0; shard < 2; ++shard) {
      UnitBuffer cell = accumulator.Take(unit);
      addresses.insert(cell.flat.data_ptr());
      accumulator.Add(unit, shard, /*ends_shard=*/true, std::move(cell));
    }
    accumulator.GiveBack(unit, accumulator.TakeRoot(unit, 2));
  }
  EXPECT_EQ(addresses.size(), 2);
}

}  // namespace
}  // namespace anneal::trainer
