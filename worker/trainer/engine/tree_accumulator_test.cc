#include "worker/trainer/engine/tree_accumulator.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>

#include <cmath>
#include <set>

#include "gmock/gmock.h"

namespace anneal::trainer {
namespace {

const FlatLayout& OneTensor() {
  static const FlatLayout* layout = new FlatLayout({{.name = "unit", .parameters = {{.name = "w", .shape = {1000}}}}}, 1, 64);
  return *layout;
}

// Numbers of very different size, so that another order of additions gives other bits.
at::Tensor Gradient(int shard, int micro_batch) {
  at::Generator generator = at::detail::createCPUGenerator(100 * shard + micro_batch);
  return at::randn({1000}, generator).mul(std::pow(10.0, (3 * shard + micro_batch) % 7));
}

// Runs a step in which shard s has micro_batches[s] micro-batches; returns the root.
at::Tensor Accumulate(TreeAccumulator& accumulator, const std::vector<int>& micro_batches) {
  for (size_t shard = 0; shard < micro_batches.size(); ++shard) {
    for (int i = 0; i < micro_batches[shard]; ++i) {
      accumulator.BeginCell().views(0)[0].copy_(Gradient(static_cast<int>(shard), i));
      accumulator.EndCell();
    }
    accumulator.EndShard();
  }
  const at::Tensor root = accumulator.Root().views(0)[0].clone();
  accumulator.Clear();
  return root;
}

TEST(TreeAccumulatorTest, AddsNeighboursLevelByLevel) {
  TreeAccumulator accumulator(OneTensor(), at::kCPU);
  const auto g = [](int shard) { return Gradient(shard, 0); };
  EXPECT_TRUE(at::equal(Accumulate(accumulator, {1}), g(0)));
  EXPECT_TRUE(at::equal(Accumulate(accumulator, {1, 1}), g(0).add(g(1))));
  EXPECT_TRUE(at::equal(Accumulate(accumulator, {1, 1, 1, 1}), g(0).add(g(1)).add(g(2).add(g(3)))));
  // Not the same as one after the other: the test would not notice a wrong order otherwise.
  EXPECT_FALSE(at::equal(g(0).add(g(1)).add(g(2)).add(g(3)), g(0).add(g(1)).add(g(2).add(g(3)))));
}

TEST(TreeAccumulatorTest, AddsMicroBatchesOfAShardInOrder) {
  TreeAccumulator accumulator(OneTensor(), at::kCPU);
  const at::Tensor first = Gradient(0, 0).add(Gradient(0, 1)).add(Gradient(0, 2));
  EXPECT_TRUE(at::equal(Accumulate(accumulator, {3, 1}), first.add(Gradient(1, 0))));
}

TEST(TreeAccumulatorTest, EmptyShardsPassTheirSiblingOn) {
  TreeAccumulator accumulator(OneTensor(), at::kCPU);
  EXPECT_TRUE(at::equal(Accumulate(accumulator, {0, 1, 0, 0}), Gradient(1, 0)));
  EXPECT_TRUE(at::equal(Accumulate(accumulator, {1, 0, 0, 1}), Gradient(0, 0).add(Gradient(3, 0))));
}

TEST(TreeAccumulatorTest, ReusesItsMemoryFromStepToStep) {
  TreeAccumulator accumulator(OneTensor(), at::kCPU);
  std::set<void*> addresses;
  for (int step = 0; step < 3; ++step) {
    for (int shard = 0; shard < 8; ++shard) {
      addresses.insert(accumulator.BeginCell().flat(0).data_ptr());
      accumulator.EndCell();
      accumulator.EndShard();
    }
    accumulator.Clear();
  }
  EXPECT_EQ(addresses.size(), 4);  // log2(8) + 1
}

}  // namespace
}  // namespace anneal::trainer
