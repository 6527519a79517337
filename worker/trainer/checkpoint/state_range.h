#pragma once
// How a checkpoint names what it holds of the model and the optimizer: by tensor and range and not
// by rank, so that any number of ranks in any sharding mode can write it and read it.

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace anneal::trainer {

enum class StateKind { kValue, kFirstMoment, kSecondMoment };
// "value", "first_moment", "second_moment".
absl::string_view StateKindName(StateKind kind);

// Elements [first, first + elements) of a tensor in row-major order, or of one of its moments.
struct StateRange {
  StateKind kind = StateKind::kValue;
  std::string tensor;
  int64_t first = 0;
  int64_t elements = 0;
};

}  // namespace anneal::trainer
