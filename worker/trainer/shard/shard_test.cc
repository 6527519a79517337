// Layout, gradient norm and optimizer: what runs on flat buffers.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <torch/optim/adamw.h>

#include <cmath>
#include <limits>
#include <memory>

#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "gmock/gmock.h"
#include "worker/trainer/collective/solo_communicator.h"
#include "worker/trainer/collective/testing/in_process_communicator.h"
#include "worker/trainer/kernels/kernels.h"
#include "worker/trainer/shard/adamw.h"
#include "worker/trainer/shard/flat_layout.h"
#include "worker/trainer/shard/gradient_norm.h"

namespace anneal::trainer {
namespace {

using ::anneal::testing::IsOk;
using ::anneal::trainer::testing::RunOnRanks;

std::vector<ParameterUnit> SomeUnits() {
  return {{.name = "embed"},
          {.name = "layers.0",
           .parameters = {{.name = "a", .shape = {3, 5}},
                          {.name = "norm", .shape = {7}, .weight_decay = false},
                          {.name = "b", .shape = {200, 101}}}},
          {.name = "head", .parameters = {{.name = "c", .shape = {1}}}}};
}

void FillWithNoise(FlatBuffers& buffers, uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  for (int unit = 0; unit < buffers.units(); ++unit) {
    for (at::Tensor& view : buffers.views(unit)) view.copy_(at::randn(view.sizes(), generator));
  }
}

TEST(FlatLayoutTest, AlignsTensorsAndPadsUnitsToWholeChunksPerShard) {
  const FlatLayout layout(SomeUnits(), /*logical_shards=*/4, /*alignment_bytes=*/64);
  ASSERT_EQ(layout.units().size(), 3);
  EXPECT_EQ(layout.units()[0].elements, 0);
  const FlatUnit& unit = layout.units()[1];
  EXPECT_EQ(unit.tensors[0].offset, 0);
  EXPECT_EQ(unit.tensors[1].offset, 16);
  EXPECT_EQ(unit.tensors[2].offset, 32);
  EXPECT_EQ(unit.elements, 4 * kChunkElements);
  EXPECT_EQ(layout.units()[2].elements, 4 * kChunkElements);
  EXPECT_EQ(layout.parameters(), 15 + 7 + 20200 + 1);
}

TEST(FlatBuffersTest, ViewsShareTheFlatMemoryAndPaddingStaysZero) {
  const FlatLayout layout(SomeUnits(), 1, 64);
  FlatBuffers a(layout, at::kCPU);
  FillWithNoise(a, 1);
  const at::Tensor expected = a.views(1)[2].mul(0.5);
  a.flat(1).mul_(0.5);
  EXPECT_TRUE(at::equal(a.views(1)[2], expected));
  EXPECT_FALSE(a.flat(0).defined());
  const at::Tensor padding = a.flat(1).narrow(0, 32 + 20200, a.flat(1).numel() - 32 - 20200);
  EXPECT_EQ(padding.count_nonzero().item<int64_t>(), 0);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a.views(1)[1].data_ptr()) % 64, 0);
}

TEST(PartTest, PartsOfAllRanksAreTheWholeAndSegmentsLeavePaddingOut) {
  const FlatLayout layout(SomeUnits(), 4, 64);
  FlatBuffers values(layout, at::kCPU);
  FillWithNoise(values, 1);
  const FlatUnit& unit = layout.units()[1];
  std::vector<at::Tensor> parts;
  std::vector<int64_t> owned(unit.tensors.size(), 0);
  for (int rank = 0; rank < 4; ++rank) {
    const Part part{.index = rank, .count = 4};
    parts.push_back(values.Parts(part)[1]);
    EXPECT_FALSE(values.Parts(part)[0].defined());
    EXPECT_EQ(part.FirstOf(unit), rank * kChunkElements);
    for (size_t i = 0; i < unit.tensors.size(); ++i) {
      const Segment segment = SegmentOf(unit, unit.tensors[i], part);
      if (segment.elements == 0) continue;
      const at::Tensor expected =
          values.views(1)[i].flatten().narrow(0, owned[i], segment.elements);
      EXPECT_TRUE(at::equal(parts[rank].narrow(0, segment.first, segment.elements), expected));
      owned[i] += segment.elements;
    }
  }
  EXPECT_TRUE(at::equal(at::cat(parts), values.flat(1)));
  for (size_t i = 0; i < unit.tensors.size(); ++i) EXPECT_EQ(owned[i], unit.tensors[i].elements);
}

// Of the whole gradient, on one rank.
double NormOf(Kernels& kernels, const FlatBuffers& gradient) {
  const auto alone = MakeSoloCommunicator();
  return *GradientNorm(kernels, gradient.Parts({}), {}, *alone, "norm");
}

TEST(GradientNormTest, HasTheSameBitsHoweverManyRanksHoldTheGradient) {
  const auto kernels = MakeCpuKernels();
  const FlatLayout layout(SomeUnits(), 4, 64);
  FlatBuffers gradient(layout, at::kCPU);
  FillWithNoise(gradient, 3);
  const double expected = NormOf(*kernels, gradient);
  for (int ranks : {2, 4}) {
    EXPECT_THAT(RunOnRanks(ranks,
                           [&](Communicator& communicator) -> absl::Status {
                             const Part part{.index = communicator.rank(), .count = ranks};
                             ANNEAL_ASSIGN_OR_RETURN(const double norm,
                                                     GradientNorm(*kernels, gradient.Parts(part),
                                                                  part, communicator, "norm"));
                             EXPECT_EQ(norm, expected);
                             return absl::OkStatus();
                           }),
                IsOk());
  }
}

TEST(GradientNormTest, IsTheEuclideanNormForAnyNumberOfThreads) {
  const auto kernels = MakeCpuKernels();
  const FlatLayout layout(SomeUnits(), 2, 64);
  FlatBuffers gradient(layout, at::kCPU);
  FillWithNoise(gradient, 3);
  double squares = 0;
  for (int unit : {1, 2})
    squares += gradient.flat(unit).to(at::kDouble).square().sum().item<double>();
  at::set_num_threads(1);
  const double norm = NormOf(*kernels, gradient);
  EXPECT_NEAR(norm, std::sqrt(squares),
              1e-10 * norm);  // both in double; only the order of 20,000 additions differs
  at::set_num_threads(2);
  EXPECT_EQ(NormOf(*kernels, gradient), norm);
}

TEST(GradientNormTest, ShowsWhatIsNotFinite) {
  const auto kernels = MakeCpuKernels();
  const FlatLayout layout(SomeUnits(), 1, 64);
  for (float value :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    FlatBuffers gradient(layout, at::kCPU);
    gradient.views(2)[0].fill_(value);
    EXPECT_FALSE(std::isfinite(NormOf(*kernels, gradient)));
  }
}

TEST(ClipCoefficientTest, FollowsTorch) {
  EXPECT_EQ(ClipCoefficient(0.5, 1.0), 1.0);
  EXPECT_DOUBLE_EQ(ClipCoefficient(4.0, 1.0), 1.0 / 4.000001);
  EXPECT_EQ(ClipCoefficient(4.0, 0), 1.0);
}

// torch's own optimizer on copies of the same tensors, in two groups: with and without weight
// decay.
class TorchAdamW {
 public:
  TorchAdamW(const FlatLayout& layout, const FlatBuffers& values, const AdamWOptions& options) {
    const auto defaults =
        torch::optim::AdamWOptions().betas({options.beta1, options.beta2}).eps(options.epsilon);
    std::vector<at::Tensor> decayed, not_decayed;
    for (int unit = 0; unit < values.units(); ++unit) {
      for (size_t i = 0; i < values.views(unit).size(); ++i) {
        parameters_.push_back(values.views(unit)[i].clone().set_requires_grad(true));
        (layout.units()[unit].tensors[i].weight_decay ? decayed : not_decayed)
            .push_back(parameters_.back());
      }
    }
    auto with = std::make_unique<torch::optim::AdamWOptions>(defaults),
         without = std::make_unique<torch::optim::AdamWOptions>(defaults);
    with->weight_decay(options.weight_decay);
    without->weight_decay(0);
    std::vector<torch::optim::OptimizerParamGroup> groups;
    groups.emplace_back(decayed, std::move(with));
    groups.emplace_back(not_decayed, std::move(without));
    optimizer_ = std::make_unique<torch::optim::AdamW>(groups, defaults);
  }

  void Step(double learning_rate, const FlatBuffers& gradient) {
    size_t next = 0;
    for (int unit = 0; unit < gradient.units(); ++unit) {
      for (const at::Tensor& view : gradient.views(unit))
        parameters_[next++].mutable_grad() = view.clone();
    }
    for (auto& group : optimizer_->param_groups()) group.options().set_lr(learning_rate);
    optimizer_->step();
  }
  // In the order of units.
  const std::vector<at::Tensor>& parameters() const { return parameters_; }

 private:
  std::vector<at::Tensor> parameters_;
  std::unique_ptr<torch::optim::AdamW> optimizer_;
};

TEST(AdamWTest, FollowsTorchStepByStep) {
  const AdamWOptions options{.beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-7, .weight_decay = 0.1};
  const FlatLayout layout(SomeUnits(), 1, 64);
  FlatBuffers values(layout, at::kCPU), gradient(layout, at::kCPU);
  FillWithNoise(values, 4);
  TorchAdamW expected(layout, values, options);
  AdamW optimizer(layout, {}, options, at::kCPU);
  for (int64_t step = 1; step <= 40; ++step) {
    const double learning_rate = 1e-2 / static_cast<double>(step);
    FillWithNoise(gradient, 100 + step);
    expected.Step(learning_rate, gradient);
    optimizer.Step(step, learning_rate, values.Parts({}), gradient.Parts({}));
    size_t next = 0;
    for (int unit = 0; unit < values.units(); ++unit) {
      for (const at::Tensor& value : values.views(unit)) {
        // Each update may round in another place: by a unit in the last place, 2.4e-7 for values
        // of 2 to 4.
        const double difference =
            value.sub(expected.parameters()[next++].detach()).abs().max().item<double>();
        EXPECT_LT(difference, 2.5e-7 * static_cast<double>(step))
            << "step " << step << " of unit " << unit;
      }
    }
  }
}

TEST(AdamWTest, GivesTheSameBitsForAnyNumberOfThreads) {
  const FlatLayout layout(SomeUnits(), 1, 64);
  std::vector<at::Tensor> results;
  for (int threads : {1, 2}) {
    at::set_num_threads(threads);
    FlatBuffers values(layout, at::kCPU), gradient(layout, at::kCPU);
    FillWithNoise(values, 4);
    FillWithNoise(gradient, 5);
    AdamW optimizer(layout, {}, {.weight_decay = 0.01}, at::kCPU);
    for (int64_t step = 1; step <= 3; ++step)
      optimizer.Step(step, 1e-3, values.Parts({}), gradient.Parts({}));
    results.push_back(values.flat(1));
  }
  EXPECT_TRUE(at::equal(results[0], results[1]));
}

TEST(AdamWTest, GivesTheSameBitsForAnyNumberOfParts) {
  const FlatLayout layout(SomeUnits(), 4, 64);
  std::vector<at::Tensor> results;
  for (int count : {1, 2, 4}) {
    FlatBuffers values(layout, at::kCPU), gradient(layout, at::kCPU);
    FillWithNoise(values, 4);
    FillWithNoise(gradient, 5);
    for (int rank = 0; rank < count; ++rank) {
      const Part part{.index = rank, .count = count};
      AdamW optimizer(layout, part, {.weight_decay = 0.01}, at::kCPU);
      for (int64_t step = 1; step <= 3; ++step)
        optimizer.Step(step, 1e-3, values.Parts(part), gradient.Parts(part));
    }
    results.push_back(values.flat(1));
  }
  for (const at::Tensor& result : results) EXPECT_TRUE(at::equal(result, results[0]));
}

}  // namespace
}  // namespace anneal::trainer
