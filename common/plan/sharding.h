#pragma once
// How the state of a model in training is spread over the ranks of a job (ZeRO, arXiv:1910.02054).

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace anneal {

// Each spreads what the one before does, and more. None changes a bit of the result.
enum class Sharding {
  kNone,       // every rank holds everything
  kOptimizer,  // a rank holds the moments, and the fp32 masters of bf16 weights, of its own part
  kGradients,  // and of a step's gradient no more than its part, as soon as a unit's is complete
  kFull,  // and of all weights, frozen ones too; each unit is gathered for as long as it is used
};

// By the names of job files and tasks: "NONE", "OPTIMIZER", "GRADIENTS", "FULL".
// INVALID_ARGUMENT lists them.
absl::StatusOr<Sharding> ParseSharding(absl::string_view name);
absl::string_view ShardingName(Sharding sharding);

// With one rank there is nothing to spread.
inline Sharding EffectiveSharding(Sharding sharding, int world_size) {
  return world_size == 1 ? Sharding::kNone : sharding;
}

}  // namespace anneal
