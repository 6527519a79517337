#include "worker/trainer/kernels/products.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>

#include <limits>

#include "common/base/random.h"
#include "gmock/gmock.h"

namespace anneal::trainer {
namespace {

// A matrix as it lies, or the transpose of one.
at::Tensor Matrix(int64_t rows, int64_t columns, bool transposed, at::ScalarType type,
                  at::Generator& generator) {
  return transposed ? at::randn({columns, rows}, generator).to(type).t()
                    : at::randn({rows, columns}, generator).to(type);
}

class ProductsTest : public ::testing::TestWithParam<at::ScalarType> {};

INSTANTIATE_TEST_SUITE_P(ComputeTypes, ProductsTest, ::testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& info) { return std::string(at::toString(info.param)); });

TEST_P(ProductsTest, HaveTheBitsOfOneThreadForAnyShape) {
  SeededRandom random(1);
  at::Generator generator = at::detail::createCPUGenerator(1);
  const auto length = [&] {
    return 1 + static_cast<int64_t>(random.Next() % (random.Next() % 2 == 0 ? 40 : 300));
  };
  for (int i = 0; i < 150; ++i) {
    const int64_t m = length(), k = length(), n = i % 3 == 0 ? 16 : length();
    const at::Tensor a = Matrix(m, k, random.Next() % 2 == 0, GetParam(), generator),
                     b = Matrix(k, n, random.Next() % 2 == 0, GetParam(), generator);
    const at::Tensor c = Matrix(m, n, /*transposed=*/false, GetParam(), generator);
    at::Tensor product, sum;
    for (int threads : {1, 2, 4}) {
      at::set_num_threads(threads);
      const at::Tensor now = Product(a, b);
      at::Tensor now_sum = c.clone();
      AddProduct(now_sum, a, b, 0.5);
      if (threads == 1) {
        product = now;
        sum = now_sum;
        EXPECT_TRUE(at::equal(product, at::mm(a, b)));
      }
      EXPECT_TRUE(at::equal(now, product))
          << m << " x " << k << " x " << n << " on " << threads << " threads";
      EXPECT_TRUE(at::equal(now_sum, sum))
          << m << " x " << k << " x " << n << " added, on " << threads << " threads";
    }
  }
  at::set_num_threads(1);
}

TEST(ProductsIntoTest, CanIgnoreWhatWasThere) {
  at::Generator generator = at::detail::createCPUGenerator(2);
  const at::Tensor a = at::randn({3, 4}, generator), b = at::randn({4, 5}, generator);
  at::Tensor out = at::full({3, 5}, std::numeric_limits<float>::quiet_NaN());
  at::Tensor into = out.clone();
  AddProduct(out, a, b, /*alpha=*/1, /*beta=*/0);
  ProductInto(into, a, b);
  EXPECT_TRUE(at::equal(out, at::mm(a, b)));
  EXPECT_TRUE(at::equal(into, out));
}

}  // namespace
}  // namespace anneal::trainer
