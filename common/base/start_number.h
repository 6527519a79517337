#pragma once
// Numbers that fence: of two processes in the same place the one that started later has the
// greater.

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"

namespace anneal {

// Microseconds of the wall clock, or one more than `last`, the number that was kept of the start
// before, if that is greater. So the numbers grow where memory is lost (an emptied folder, a backup
// that was restored) as long as the clock is right, and where the clock is wrong as long as memory
// is kept.
inline int64_t NextStartNumber(int64_t last, absl::Time now) {
  return std::max(last + 1, absl::ToUnixMicros(now));
}

}  // namespace anneal
