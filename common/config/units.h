#pragma once
// Sizes as people write them. (Durations are absl::ParseDuration: "250ms", "10s", "1h30m".)

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace anneal {

// "4096", "64KiB", "8GiB", "1.5TiB", "500MB" (decimal); a number without a unit is bytes.
// INVALID_ARGUMENT for anything else, for negative numbers and for what does not fit.
absl::StatusOr<int64_t> ParseBytes(absl::string_view text);
// For people, with a binary unit: "17 B", "256.4 MiB".
std::string FormatBytes(int64_t bytes);

}  // namespace anneal
