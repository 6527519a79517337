#include "worker/trainer/collective/fixed_order_reducer.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/plan/permutation.h"
#include "worker/trainer/collective/testing/in_process_communicator.h"

namespace anneal::trainer {
namespace {

using ::anneal::testing::IsOk;
using ::anneal::trainer::testing::RunOnRanks;

struct Leaf {
  bool has_values;
  at::Tensor values;
};

// The tree of the whole world, on one machine: what every world size must reproduce bit for bit.
Leaf SumOfTree(const std::vector<Leaf>& leaves, size_t begin, size_t end) {
  if (end - begin == 1) return leaves[begin];
  const size_t middle = (begin + end) / 2;
  const Leaf left = SumOfTree(leaves, begin, middle), right = SumOfTree(leaves, middle, end);
  if (!left.has_values) return right;
  if (!right.has_values) return left;
  return {true, left.values.add(right.values)};
}

std::vector<Leaf> SomeLeaves(int shards, int64_t size, uint64_t empty_mask) {
  at::Generator generator = at::detail::createCPUGenerator(MixKeys(shards, size));
  std::vector<Leaf> leaves;
  for (int i = 0; i < shards; ++i) {
    const bool has_values = (empty_mask >> i & 1) == 0;
    // Magnitudes far apart, so that another order of additions gives other bits; what an empty leaf
    // holds must not matter.
    leaves.push_back({has_values, has_values
                                      ? at::randn({size}, generator).mul(std::pow(10.0, i % 5))
                                      : at::full({size}, 7.0f)});
  }
  return leaves;
}

// Sums the leaves with `world_size` ranks, each bringing the sum of its own subtree; returns rank
// 0's result, equal on all.
at::Tensor SumOnRanks(int world_size, const std::vector<Leaf>& leaves) {
  const size_t per_rank = leaves.size() / world_size;
  std::vector<at::Tensor> results(world_size);
  std::vector<bool> has_values(world_size);
  std::vector<Leaf> brought;
  for (int r = 0; r < world_size; ++r) {
    brought.push_back(SumOfTree(leaves, r * per_rank, (r + 1) * per_rank));
    has_values[r] = brought[r].has_values;
  }
  EXPECT_THAT(RunOnRanks(world_size,
                         [&](Communicator& communicator) -> absl::Status {
                           const int rank = communicator.rank();
                           FixedOrderReducer reducer(communicator);
                           at::Tensor flat = brought[rank].values.clone();
                           at::Tensor part = flat.clone().chunk(world_size)[rank];
                           ANNEAL_RETURN_IF_ERROR(reducer.SumPart(flat, has_values, part, "part"));
                           ANNEAL_RETURN_IF_ERROR(reducer.Sum(flat, has_values, "whole"));
                           EXPECT_TRUE(at::equal(part, flat.chunk(world_size)[rank]));
                           results[rank] = flat;
                           return absl::OkStatus();
                         }),
              IsOk());
  for (const at::Tensor& result : results) EXPECT_TRUE(at::equal(result, results[0]));
  return results[0];
}

TEST(FixedOrderReducerTest, EveryWorldSizeGivesTheBitsOfOne) {
  for (int shards : {1, 2, 4, 8, 16}) {
    for (int64_t size : {16, 48, 16 * 1027}) {
      for (uint64_t empty_mask : {0x0, 0x1, 0x2, 0x5, 0xC, 0xF0, 0xFE}) {
        const auto leaves = SomeLeaves(shards, size, empty_mask);
        const Leaf whole = SumOfTree(leaves, 0, leaves.size());
        const at::Tensor expected = whole.has_values ? whole.values : at::zeros({size});
        for (int world_size = 1; world_size <= shards; world_size *= 2) {
          EXPECT_TRUE(at::equal(SumOnRanks(world_size, leaves), expected))
              << "shards " << shards << " size " << size << " empty " << empty_mask << " world "
              << world_size;
        }
      }
    }
  }
}

// Shows that the property above is not true of just any order.
TEST(FixedOrderReducerTest, AnyOrderAgreesToRoundingOnly) {
  const auto leaves = SomeLeaves(4, 4096, 0);
  const at::Tensor expected = SumOfTree(leaves, 0, 4).values;
  at::Tensor sum;
  ASSERT_THAT(RunOnRanks(4,
                         [&](Communicator& communicator) {
                           at::Tensor flat = leaves[communicator.rank()].values.clone();
                           const absl::Status status =
                               SumInAnyOrder(communicator, flat, {true, true, true, true}, "fast");
                           if (communicator.rank() == 0) sum = flat;
                           return status;
                         }),
              IsOk());
  EXPECT_FALSE(at::equal(sum, expected));
  // Three fp32 additions of numbers of up to 1e4: a few units in the last place of that.
  EXPECT_TRUE(at::allclose(sum, expected, 1e-6, 1e-2));
}

TEST(FixedOrderReducerTest, AnyOrderIgnoresWhatAnEmptyRankHolds) {
  const auto leaves = SomeLeaves(2, 8, 0x2);
  ASSERT_THAT(
      RunOnRanks(
          2,
          [&](Communicator& communicator) {
            at::Tensor flat = leaves[communicator.rank()].values.clone();
            const absl::Status status = SumInAnyOrder(communicator, flat, {true, false}, "fast");
            EXPECT_TRUE(at::equal(flat, leaves[0].values));
            return status;
          }),
      IsOk());
}

TEST(FixedOrderReducerTest, AnEmptySiblingKeepsTheSignOfZero) {
  const std::vector<Leaf> leaves = {{true, at::full({4}, -0.0f)}, {false, at::zeros({4})}};
  EXPECT_TRUE(SumOnRanks(2, leaves).signbit().all().item<bool>());
}

}  // namespace
}  // namespace anneal::trainer
