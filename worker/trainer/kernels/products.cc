#include "worker/trainer/kernels/products.h"

#include <ATen/Parallel.h>
#include <ATen/ops/mm.h>

namespace anneal::trainer {
namespace {

// Twice what was seen to be needed.
constexpr int64_t kOutputsPerThread = 1024;

// Runs `multiply`, which computes a product of a's rows and b's columns.
template <typename Fn>
void Multiply(const at::Tensor& a, const at::Tensor& b, const Fn& multiply) {
  const int threads = at::get_num_threads();
  if (threads == 1 || !a.is_cpu() || a.size(0) * b.size(1) >= kOutputsPerThread * threads)
    return multiply();
  // Within a parallel region operators stay on their thread; the first portion's is this one.
  at::parallel_for(0, 2, 1, [&](int64_t begin, int64_t) {
    if (begin == 0) multiply();
  });
}

}  // namespace

at::Tensor Product(const at::Tensor& a, const at::Tensor& b) {
  at::Tensor product;
  Multiply(a, b, [&] { product = at::mm(a, b); });
  return product;
}

void ProductInto(at::Tensor& out, const at::Tensor& a, const at::Tensor& b) {
  Multiply(a, b, [&] { at::mm_out(out, a, b); });
}

void AddProduct(at::Tensor& sum, const at::Tensor& a, const at::Tensor& b, double alpha,
                double beta) {
  Multiply(a, b, [&] { sum.addmm_(a, b, beta, alpha); });
}

}  // namespace anneal::trainer
