#pragma once
// Whose failure a rank's end was.

#include <string>

#include "absl/strings/string_view.h"
#include "anneal/internal/catalog.pb.h"

namespace anneal {

// Failures are counted apart by cause, so that a bad night of the machines does not use up what a
// job may do wrong itself (RetrySpec).
enum class Blame { kInfrastructure, kUser, kUnknown };

// "infrastructure", "user", "unknown".
std::string BlameName(Blame blame);

// Pure. `failure` says how the rank ended; its `signal` is 0 if none killed it.
Blame BlameFor(const internal::TaskFailure& failure);

}  // namespace anneal
