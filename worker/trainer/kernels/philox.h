#pragma once
// Philox4x32-10, a counter-based generator (Salmon et al., "Parallel Random Numbers: As Easy as 1,
// 2, 3", SC 2011).
//
// Numbers that enter a model are keyed by meaning, never by position in a stream: the key names
// what is drawn (seed and tensor name; seed, step and module), the counter says which element. So
// any rank can draw any part, in any order, on any device.

#include <array>
#include <cstdint>

#include "absl/strings/string_view.h"

#if defined(__CUDACC__)
#define ANNEAL_HOST_DEVICE __host__ __device__
#else
#define ANNEAL_HOST_DEVICE
#endif

namespace anneal::trainer {

struct PhiloxKey {
  uint32_t word[2];
};
struct PhiloxBlock {
  uint32_t word[4];
};

// Four independent uniform words for one counter.
ANNEAL_HOST_DEVICE inline PhiloxBlock Philox(PhiloxKey key, PhiloxBlock counter) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * counter.word[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * counter.word[2];
    counter = {{static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key.word[0],
                static_cast<uint32_t>(product1),
                static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key.word[1],
                static_cast<uint32_t>(product0)}};
    key.word[0] += 0x9E3779B9;
    key.word[1] += 0xBB67AE85;
  }
  return counter;
}

// Uniform in [0, 1), a multiple of 2^-24 so that float holds it exactly.
ANNEAL_HOST_DEVICE inline float PhiloxUniform(uint32_t word) {
  return static_cast<float>(word >> 8) * 0x1.0p-24f;
}

// Whether dropout keeps a feature of a token, with probability 1 - rate.
ANNEAL_HOST_DEVICE inline bool DropoutKeeps(PhiloxKey key, float rate, int64_t source_row,
                                            int64_t position, int64_t feature) {
  const PhiloxBlock block =
      Philox(key, {{static_cast<uint32_t>(feature / 4), static_cast<uint32_t>(position),
                    static_cast<uint32_t>(source_row), static_cast<uint32_t>(source_row >> 32)}});
  return PhiloxUniform(block.word[feature % 4]) >= rate;
}

// Key of a meaning: the first 64 bits of SHA-256 over the seed, a number and a name.
PhiloxKey MakePhiloxKey(uint64_t seed, int64_t number, absl::string_view name);

}  // namespace anneal::trainer
