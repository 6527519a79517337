#pragma once
// Which linear layers `target_modules` names.

#include <vector>

#include "absl/status/statusor.h"
#include "common/format/model_config.h"
#include "common/protocol/messages.h"

namespace anneal::trainer {

// For each layer, for each of its BlockLinears: adapted or not. A target is a module's whole name
// ("model.layers.0.mlp.up_proj"), its end ("up_proj", "mlp.up_proj"), or "all-linear" alone.
// INVALID_ARGUMENT if a target matches nothing, listing what there is.
absl::StatusOr<std::vector<std::vector<bool>>> ResolveLoraTargets(
    const ModelConfig& config, const std::vector<std::string>& targets);

}  // namespace anneal::trainer
