#include "common/base/random.h"

#include <sys/random.h>

#include "absl/strings/string_view.h"

#include "absl/strings/str_format.h"
#include "common/base/status.h"

namespace anneal {
namespace {

constexpr absl::string_view kCrockford = "0123456789abcdefghjkmnpqrstvwxyz";

class OsRandom : public Random {
 public:
  uint64_t Next() override {
    uint64_t value = 0;
    ANNEAL_CHECK(::getrandom(&value, sizeof(value), 0) == sizeof(value));
    return value;
  }
};

}  // namespace

Random& Random::Real() {
  static OsRandom& random = *new OsRandom;
  return random;
}

uint64_t SeededRandom::Next() {
  absl::MutexLock lock(&mu_);
  uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

std::string NewUlid(absl::Time now, Random& random) {
  const uint64_t millis =
      static_cast<uint64_t>(absl::ToUnixMillis(now)) & ((uint64_t{1} << 48) - 1);
  // 128 bits = 48 of time + 80 of chance, written as 26 digits of 5 bits, most significant first.
  const uint64_t r1 = random.Next(), r2 = random.Next();
  unsigned __int128 value = (static_cast<unsigned __int128>(millis) << 80) |
                            (static_cast<unsigned __int128>(r1 & 0xffff) << 64) | r2;
  std::string out(26, '0');
  for (int i = 25; i >= 0; --i, value >>= 5) out[i] = kCrockford[static_cast<int>(value & 31)];
  return out;
}

bool IsUlid(absl::string_view text) {
  return text.size() == 26 && text[0] <= '7' &&
         text.find_first_not_of(kCrockford) == absl::string_view::npos;
}

std::string RandomHex(int bytes, Random& random) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out += absl::StrFormat("%02x", random.Next() & 0xff);
  return out;
}

}  // namespace anneal
