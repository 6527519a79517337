#pragma once
// Matrix products whose bits do not depend on the number of threads.
//
// On a CPU sgemm has the bits of one thread only where every thread has enough of the output to
// compute: with 1 to 8 threads and random shapes, products with up to 512 outputs a thread came out
// differently, larger ones never. So a product with few outputs is computed on one thread; there is
// little to share. On other devices these are the plain operators.

#include <ATen/core/Tensor.h>

namespace anneal::trainer {

// a b
at::Tensor Product(const at::Tensor& a, const at::Tensor& b);
void ProductInto(at::Tensor& out, const at::Tensor& a, const at::Tensor& b);
// sum = beta sum + alpha a b; with beta 0, whatever was in sum.
void AddProduct(at::Tensor& sum, const at::Tensor& a, const at::Tensor& b, double alpha = 1,
                double beta = 1);

}  // namespace anneal::trainer
