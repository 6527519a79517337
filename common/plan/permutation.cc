#include "common/plan/permutation.h"

#include "common/base/status.h"

namespace anneal {
namespace {
constexpr int kRounds = 8;

uint64_t Finalise(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}
}  // namespace

uint64_t MixKeys(uint64_t a, uint64_t b) { return Finalise(Finalise(a + 0x9e3779b97f4a7c15u) ^ b); }

Permutation::Permutation(int64_t size, uint64_t key) : size_(size), key_(key), half_bits_(1) {
  ANNEAL_CHECK(size >= 1);
  while (half_bits_ < 31 && (int64_t{1} << (2 * half_bits_)) < size) ++half_bits_;
}

int64_t Permutation::At(int64_t index) const {
  ANNEAL_CHECK(index >= 0 && index < size_);
  uint64_t value = static_cast<uint64_t>(index);
  do {
    value = Encipher(value);
  } while (value >= static_cast<uint64_t>(size_));
  return static_cast<int64_t>(value);
}

uint64_t Permutation::Encipher(uint64_t value) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t left = value >> half_bits_, right = value & mask;
  for (uint64_t round = 0; round < kRounds; ++round) {
    const uint64_t mixed = MixKeys(key_ + round * 0x9e3779b97f4a7c15u, right) & mask;
    const uint64_t next = left ^ mixed;
    left = right;
    right = next;
  }
  return (left << half_bits_) | right;
}

}  // namespace anneal
