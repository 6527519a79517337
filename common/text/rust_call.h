#pragma once
// Helpers for calls through rust/anneal_text.h; included by this folder's sources only.

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/text/rust/anneal_text.h"

namespace anneal::text_internal {

inline AnnealText Borrow(absl::string_view text) { return {text.data(), text.size()}; }

inline std::string Take(AnnealBytes& bytes) {
  std::string text(bytes.data, bytes.size);
  anneal_text_bytes_free(&bytes);
  return text;
}

// Calls `function` with a buffer for the error. The library fails on input only, so what it says is
// INVALID_ARGUMENT.
template <typename Fn>
absl::Status Call(Fn function) {
  AnnealBytes error = {};
  if (function(&error)) return absl::OkStatus();
  return absl::InvalidArgumentError(Take(error));
}

}  // namespace anneal::text_internal
