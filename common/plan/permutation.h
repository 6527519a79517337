#pragma once
// A keyed permutation of [0, size) that is computed, not stored: the order in which an epoch uses
// its rows.

#include <cstdint>

namespace anneal {

// A Feistel network on the smallest even number of bits that holds `size`, walked along its cycle
// until the value lies below `size` (Black and Rogaway, "Ciphers with arbitrary finite domains",
// 2002). A permutation for every key, because a Feistel network is one and cycle walking keeps it
// one; at most four steps on average, because the domain is below 4 * size. Not for secrets. Value
// type, immutable, thread-safe.
class Permutation {
 public:
  // `size` >= 1.
  Permutation(int64_t size, uint64_t key);

  int64_t size() const { return size_; }
  // The image of `index`, 0 <= index < size().
  int64_t At(int64_t index) const;

 private:
  uint64_t Encipher(uint64_t value) const;

  int64_t size_;
  uint64_t key_;
  int half_bits_;
};

// Mixes two words to one (SplitMix64's finaliser over their combination; Steele, Lea and Flood,
// 2014): derives keys.
uint64_t MixKeys(uint64_t a, uint64_t b);

}  // namespace anneal
