#pragma once
// What LoRA options mean for a model.

#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "common/format/model_config.h"
#include "common/protocol/messages.h"

namespace anneal::trainer {

// One adapter: `scale` is alpha / rank, or alpha / sqrt(rank) (rsLoRA, arXiv:2312.03732).
struct LoraShape {
  int64_t rank = 0;
  double scale = 0;
};

struct LoraPlan {
  // By layer, by its BlockLinears; absent = not adapted.
  std::vector<std::vector<std::optional<LoraShape>>> linears;
  // Trained whole. Where the model ties the two they are one tensor, the embedding.
  bool embedding = false;
  bool head = false;
};

// A target is a module's whole name ("model.layers.0.mlp.up_proj"), its end ("up_proj",
// "mlp.up_proj"), or "all-linear" alone. INVALID_ARGUMENT names the option and what it holds if a
// name means nothing, listing what there is.
absl::StatusOr<LoraPlan> PlanLora(const ModelConfig& config, const protocol::LoraOptions& options);

// Nothing is adapted and nothing trained.
LoraPlan NoLora(const ModelConfig& config);

}  // namespace anneal::trainer
