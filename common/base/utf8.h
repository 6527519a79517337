#pragma once
// UTF-8 as RFC 3629 has it.

#include <cstddef>

#include "absl/strings/string_view.h"

namespace anneal {

// Bytes of the valid sequence that `text`, which must not be empty, starts with; 0 if it starts
// with none (a stray or missing continuation, an overlong form, a surrogate, beyond U+10FFFF).
size_t Utf8SequenceBytes(absl::string_view text);

}  // namespace anneal
