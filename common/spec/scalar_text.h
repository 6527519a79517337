#pragma once
// Numbers and time spans as people write them in job files.

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace anneal::spec {

// [+-]?(0|[1-9][0-9]*): no octal look-alikes, no underscores.
bool LooksLikeInteger(absl::string_view text);

// A plain decimal number; no hexadecimal, no names. May be out of a double's range.
bool ParseDouble(const std::string& text, double* value);

// "90s", "10m", "1h30m".
bool ParseTimeSpan(const std::string& text, absl::Duration* value);

}  // namespace anneal::spec
