// Cross entropy over the vocabulary, one block a row. The largest logit, its index and the sum of
// exponentials come from one reading of the row ("online" normaliser, arXiv:1805.02867); the
// backward reads it once more to write.

#include <limits>

#include "worker/trainer/cuda/device_math.cuh"

namespace anneal::trainer::cuda {
namespace {

// Stands for the largest of nothing. Not -infinity: the difference of two empty parts must be 0,
// not NaN.
template <typename A>
constexpr A kLowest = std::numeric_limits<A>::lowest();
constexpr int64_t kNowhere = std::numeric_limits<int64_t>::max();
template <typename A>
constexpr A kImpossible = std::numeric_limits<A>::quiet_NaN();

// A part of a row: its largest logit, the first index that has it, and the sum of exp(logit -
// largest).
template <typename A>
struct Normalizer {
  A largest;
  A sum;
  int64_t index;
};

template <typename A>
struct Merge {
  __device__ Normalizer<A> operator()(const Normalizer<A>& a, const Normalizer<A>& b) const {
    const bool b_wins = b.largest > a.largest || (b.largest == a.largest && b.index < a.index);
    const A largest = b_wins ? b.largest : a.largest;
    return {largest, a.sum * Exp(a.largest - largest) + b.sum * Exp(b.largest - largest),
            b_wins ? b.index : a.index};
  }
};

// A NaN never is the largest; it reaches `sum`, and so the loss.
template <typename T>
__device__ Normalizer<Accumulate<T>> NormalizeRow(const T* row, int64_t vocabulary, bool aligned) {
  using A = Accumulate<T>;
  Normalizer<A> mine = {kLowest<A>, 0, kNowhere};
  A logits[kPack<T>];
  for (int64_t i = threadIdx.x * kPack<T>; i < vocabulary; i += kBlock * kPack<T>) {
    LoadPack(row + i, vocabulary - i, aligned, logits);
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) {
      if (i + j >= vocabulary) break;
      if (logits[j] > mine.largest) {
        mine.sum = mine.sum * Exp(mine.largest - logits[j]) + A(1);
        mine.largest = logits[j];
        mine.index = i + j;
      } else {
        mine.sum += Exp(logits[j] - mine.largest);
      }
    }
  }
  return ReduceBlock(mine, Merge<A>());
}

template <typename T>
__global__ void __launch_bounds__(kBlock)
    ForwardKernel(const T* __restrict__ logits, const int64_t* __restrict__ targets,
                  int64_t vocabulary, bool aligned, Accumulate<T>* __restrict__ losses,
                  bool* __restrict__ correct) {
  using A = Accumulate<T>;
  const int64_t row = blockIdx.x;
  const T* const mine = logits + row * vocabulary;
  const Normalizer<A> all = NormalizeRow(mine, vocabulary, aligned);
  if (threadIdx.x != 0) return;
  const int64_t target = targets[row];
  const bool possible = target >= 0 && target < vocabulary;
  losses[row] = possible ? Log(all.sum) + (all.largest - Widen(mine[target])) : kImpossible<A>;
  correct[row] = target == all.index;
}

template <typename T>
__global__ void __launch_bounds__(kBlock)
    BackwardKernel(T* __restrict__ logits, const int64_t* __restrict__ targets, Accumulate<T> scale,
                   int64_t vocabulary, bool aligned) {
  using A = Accumulate<T>;
  const int64_t row = blockIdx.x;
  T* const mine = logits + row * vocabulary;
  const Normalizer<A> all = NormalizeRow(mine, vocabulary, aligned);
  const int64_t target = targets[row];
  const A inverse_sum = A(1) / all.sum;
  A values[kPack<T>];
  for (int64_t i = threadIdx.x * kPack<T>; i < vocabulary; i += kBlock * kPack<T>) {
    LoadPack(mine + i, vocabulary - i, aligned, values);
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) {
      const A probability = Exp(values[j] - all.largest) * inverse_sum;
      values[j] = scale * (i + j == target ? probability - A(1) : probability);
    }
    StorePack(mine + i, vocabulary - i, aligned, values);
  }
}

}  // namespace

cudaError_t LaunchCrossEntropyForward(Element type, const void* logits, const int64_t* targets,
                                      int64_t rows, int64_t vocabulary, void* losses, bool* correct,
                                      cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return Dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    ForwardKernel<T><<<Blocks(rows, 1), kBlock, 0, stream>>>(
        static_cast<const T*>(logits), targets, vocabulary, RowsAligned<T>(vocabulary, logits),
        static_cast<Accumulate<T>*>(losses), correct);
  });
}

cudaError_t LaunchCrossEntropyBackward(Element type, void* logits, const int64_t* targets,
                                       double scale, int64_t rows, int64_t vocabulary,
                                       cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return Dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    BackwardKernel<T><<<Blocks(rows, 1), kBlock, 0, stream>>>(
        static_cast<T*>(logits), targets, static_cast<Accumulate<T>>(scale), vocabulary,
        RowsAligned<T>(vocabulary, logits));
  });
}

}  // namespace anneal::trainer::cuda
