#pragma once
// How log lines look: text for people, or JSON for programs that collect logs.

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace anneal {

// "text" (the default) or "json", for all lines from now on; call it before threads log. A line of
// JSON is one object with time, severity, program (the tag), source, message, and each Field as a
// string member of its own; a Field with one of those names gets a "_" behind it. INVALID_ARGUMENT
// for another name.
absl::Status SetLogFormat(absl::string_view name);

}  // namespace anneal
