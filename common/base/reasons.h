#pragma once
// Reasons (WithReason in status.h) that one program gives and another acts on.

#include "absl/strings/string_view.h"

namespace anneal {

// A rank could not go on because another one did not answer. Most often that one's own end is the
// cause to show.
inline constexpr absl::string_view kCollectiveFailed = "COLLECTIVE_FAILED";
// A trainer has stopped at a step boundary with a checkpoint, as it was told. Comes with success.
inline constexpr absl::string_view kPaused = "PAUSED";
// It did not fit: refused by an allocator, ended by the kernel, or stopped at its slot's share.
inline constexpr absl::string_view kOutOfMemory = "OUT_OF_MEMORY";

// The model directory is not what it was when the job was created.
inline constexpr absl::string_view kModelChanged = "MODEL_CHANGED";

}  // namespace anneal
