#pragma once
// Chance as a dependency: ids, jitter. Numbers that enter a model are never drawn here (see
// kernels/philox.h).

#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace anneal {

// Thread-safe.
class Random {
 public:
  virtual ~Random() = default;
  virtual uint64_t Next() = 0;
  // Uniform in [0, 1).
  double NextDouble() { return static_cast<double>(Next() >> 11) * 0x1.0p-53; }
  // The operating system's generator; suitable for keys. Never destroyed.
  static Random& Real();
};

// SplitMix64 from a seed: the same numbers in every run.
class SeededRandom : public Random {
 public:
  explicit SeededRandom(uint64_t seed) : state_(seed) {}
  uint64_t Next() override;

 private:
  absl::Mutex mu_;
  uint64_t state_ ABSL_GUARDED_BY(mu_);
};

// 26 lower-case Crockford base32 characters: 48 bits of milliseconds, 80 random bits
// (github.com/ulid/spec). Ids made in different milliseconds sort by time of creation.
std::string NewUlid(absl::Time now, Random& random);
// Whether `text` is exactly such an id.
bool IsUlid(absl::string_view text);
// `bytes` random bytes as lower-case hexadecimal.
std::string RandomHex(int bytes, Random& random);

}  // namespace anneal
