#pragma once
// Reasons (WithReason in status.h) that one program gives and another acts on.

#include "absl/strings/string_view.h"

namespace anneal {

// A rank could not go on because another one did not answer. Most often that one's own end is the cause to show.
inline constexpr absl::string_view kCollectiveFailed = "COLLECTIVE_FAILED";

}  // namespace anneal
