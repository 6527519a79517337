// Layout, gradient norm and optimizer: what runs on flat buffers.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "worker/trainer/kernels/kernels.h"
#include "worker/trainer/shard/adamw.h"
#include "worker/trainer/shard/flat_layout.h"
#include "worker/trainer/shard/gradient_norm.h"

namespace anneal::trainer {
namespace {

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
  a.ScaleInPlace(0.5);
  EXPECT_TRUE(at::equal(a.views(1)[2], expected));
  EXPECT_FALSE(a.flat(0).defined());
  const at::Tensor padding = a.flat(1).narrow(0, 32 + 20200, a.flat(1).numel() - 32 - 20200);
  EXPECT_EQ(padding.count_nonzero().item<int64_t>(), 0);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a.views(1)[1].data_ptr()) % 64, 0);
}

TEST(GradientNormTest, IsTheEuclideanNormForAnyNumberOfThreads) {
  const auto kernels = MakeCpuKernels();
  const FlatLayout layout(SomeUnits(), 2, 64);
  FlatBuffers gradient(layout, at::kCPU);
  FillWithNoise(gradient, 3);
  double squares = 0;
  for (int unit : {1, 2}) squares += gradient.flat(unit).to(at::kDouble).square().sum().item<double>();
  at::set_num_threads(1);
  const double norm = GradientNorm(*kernels, gradient);
  EXPECT_NEAR(norm, std::sqrt(squares), 1e-10 * norm);  // both in double; only the order of 20,000 additions differs
  at::set_num_threads(2);
  EXPECT_EQ(GradientNorm(*kernels, gradient), norm);
}

TEST(GradientNormTest, ShowsWhatIsNotFinite) {
  const auto kernels = MakeCpuKernels();
  const FlatLayout layout(SomeUnits(), 1, 64);
  for (float value : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    FlatBuffers gradient(layout, at::kCPU);
    gradient.views(2)[0].fill_(value);
    EXPECT_FALSE(std::isfinite(GradientNorm(*kernels, gradient)));
  }
}

TEST(ClipCoefficientTest, FollowsTorch) {
  EXPECT_EQ(ClipCoefficient(0.5, 1.0), 1.0);
  EXPECT_DOUBLE_EQ(ClipCoefficient(4.0, 1.0), 1.0 / 4.000001);
  EXPECT_EQ(ClipCoefficient(4.0, 0), 1.0);
}

// The textbook in double, element by element.
struct TextbookAdamW {
  double value, first = 0, second = 0;

  void Step(int64_t step, double lr, double gradient, const AdamWOptions& o, bool decay) {
    if (decay) value -= lr * o.weight_decay * value;
    first = o.beta1 * first + (1 - o.beta1) * gradient;
    second = o.beta2 * second + (1 - o.beta2) * gradient * gradient;
    const double first_hat = first / (1 - std::pow(o.beta1, step)), second_hat = second / (1 - std::pow(o.beta2, step));
    value -= lr * first_hat / (std::sqrt(second_hat) + o.epsilon);
  }
};

TEST(AdamWTest, FollowsTheTextbookWithDecayOnlyWhereMarked) {
  const AdamWOptions options{.weight_decay = 0.1};
  const FlatLayout layout(SomeUnits(), 1, 64);
  FlatBuffers values(layout, at::kCPU), gradient(layout, at::kCPU);
  FillWithNoise(values, 4);
  AdamW optimizer(layout, options, at::kCPU);
  TextbookAdamW decayed{values.views(1)[0][2][3].item<float>()}, not_decayed{values.views(1)[1][4].item<float>()};
  for (int64_t step = 1; step <= 5; ++step) {
    FillWithNoise(gradient, 100 + step);
    decayed.Step(step, 1e-2, gradient.views(1)[0][2][3].item<float>(), options, true);
    not_decayed.Step(step, 1e-2, gradient.views(1)[1][4].item<float>(), options, false);
    optimizer.Step(step, 1e-2, values, gradient);
  }
  // Five fp32 updates of values near 1: a few units in the last place (6e-8 each).
  EXPECT_NEAR((values.views(1)[0][2][3].item<float>()), decayed.value, 1e-6);
  EXPECT_NEAR(values.views(1)[1][4].item<float>(), not_decayed.value, 1e-6);
}

TEST(AdamWTest, GivesTheSameBitsForAnyNumberOfThreads) {
  const FlatLayout layout(SomeUnits(), 1, 64);
  std::vector<at::Tensor> results;
  for (int threads : {1, 2}) {
    at::set_num_threads(threads);
    FlatBuffers values(layout, at::kCPU), gradient(layout, at::kCPU);
    FillWithNoise(values, 4);
    FillWithNoise(gradient, 5);
    AdamW optimizer(layout, {.weight_decay = 0.01}, at::kCPU);
    for (int64_t step = 1; step <= 3; ++step) optimizer.Step(step, 1e-3, values, gradient);
    results.push_back(values.flat(1));
  }
  EXPECT_TRUE(at::equal(results[0], results[1]));
}

}  // namespace
}  // namespace anneal::trainer
