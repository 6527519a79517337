#include "worker/trainer/model/lora_plan.h"

#include <cmath>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/format/model_tensors.h"

namespace anneal::trainer {
namespace {

constexpr absl::string_view kAllLinear = "all-linear";

absl::Status MeansNothing(const ModelConfig& config, absl::string_view option,
                          absl::string_view name, absl::string_view of_what) {
  std::vector<std::string> names;
  for (const LinearModule& linear : BlockLinears(config, 0))
    names.push_back(linear.name.substr(linear.name.rfind('.') + 1));
  return absl::InvalidArgumentError(absl::StrCat(option, ": \"", name, "\" matches no ", of_what,
                                                 "; there are ", absl::StrJoin(names, ", "),
                                                 ", and all-linear for all of them"));
}

// The names of the adapted modules, by layer and place; empty = not adapted.
absl::StatusOr<std::vector<std::vector<std::string>>> AdaptedModules(
    const ModelConfig& config, const std::vector<std::string>& targets) {
  if (targets.empty()) return absl::InvalidArgumentError("target_modules is empty");
  const bool all = targets.size() == 1 && targets[0] == kAllLinear;
  std::vector<bool> found(targets.size());
  std::vector<std::vector<std::string>> adapted;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    std::vector<std::string>& modules = adapted.emplace_back();
    for (const LinearModule& linear : BlockLinears(config, layer)) {
      bool wanted = all;
      for (size_t i = 0; i < targets.size(); ++i) {
        if (!NamesModule(linear.name, targets[i])) continue;
        wanted = found[i] = true;
      }
      modules.push_back(wanted ? linear.name : "");
    }
  }
  for (size_t i = 0; i < targets.size() && !all; ++i) {
    if (targets[i] == kAllLinear)
      return absl::InvalidArgumentError("target_modules: all-linear stands alone");
    if (!found[i]) return MeansNothing(config, "target_modules", targets[i], "linear layer");
  }
  return adapted;
}

// The first of `pattern` that means the module; null if none does.
template <typename Entry>
const Entry* FirstMeaning(const std::vector<Entry>& pattern, absl::string_view module) {
  const auto it = absl::c_find_if(
      pattern, [&](const Entry& entry) { return NamesModule(module, entry.module); });
  return it == pattern.end() ? nullptr : &*it;
}

template <typename Entry>
absl::Status CheckPattern(const ModelConfig& config,
                          const std::vector<std::vector<std::string>>& adapted,
                          absl::string_view option, const std::vector<Entry>& pattern) {
  for (const Entry& entry : pattern) {
    const bool found = absl::c_any_of(adapted, [&](const std::vector<std::string>& modules) {
      return absl::c_any_of(
          modules, [&](const std::string& module) { return NamesModule(module, entry.module); });
    });
    if (!found) return MeansNothing(config, option, entry.module, "adapted linear layer");
  }
  return absl::OkStatus();
}

LoraShape ShapeOf(const protocol::LoraOptions& options, const std::string& module) {
  const protocol::ModuleRank* own_rank = FirstMeaning(options.rank_pattern, module);
  const protocol::ModuleAlpha* own_alpha = FirstMeaning(options.alpha_pattern, module);
  const int32_t rank = own_rank != nullptr ? own_rank->rank : options.rank;
  const double alpha = own_alpha != nullptr ? own_alpha->alpha : options.alpha;
  return {rank, alpha / (options.use_rslora ? std::sqrt(static_cast<double>(rank)) : rank)};
}

absl::Status PlanSavedModules(const ModelConfig& config, const std::vector<std::string>& names,
                              LoraPlan& plan) {
  for (const std::string& name : names) {
    const bool embedding = NamesModule(kEmbeddingModule, name);
    if (!embedding && !NamesModule(kHeadModule, name)) {
      return absl::InvalidArgumentError(
          absl::StrCat("modules_to_save: \"", name,
                       "\" cannot be trained whole; there are embed_tokens and lm_head"));
    }
    (embedding || config.tie_word_embeddings ? plan.embedding : plan.head) = true;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LoraPlan> PlanLora(const ModelConfig& config, const protocol::LoraOptions& options) {
  ANNEAL_ASSIGN_OR_RETURN(const auto adapted, AdaptedModules(config, options.target_modules));
  ANNEAL_RETURN_IF_ERROR(CheckPattern(config, adapted, "rank_pattern", options.rank_pattern));
  ANNEAL_RETURN_IF_ERROR(CheckPattern(config, adapted, "alpha_pattern", options.alpha_pattern));
  LoraPlan plan;
  for (const std::vector<std::string>& modules : adapted) {
    auto& shapes = plan.linears.emplace_back();
    for (const std::string& module : modules) {
      std::optional<LoraShape>& shape = shapes.emplace_back();
      if (module.empty()) continue;
      shape = ShapeOf(options, module);
      if (shape->rank < 1) {
        return absl::InvalidArgumentError(
            absl::StrCat("the rank of ", module, " is ", shape->rank, ", below 1"));
      }
    }
  }
  ANNEAL_RETURN_IF_ERROR(PlanSavedModules(config, options.modules_to_save, plan));
  return plan;
}

LoraPlan NoLora(const ModelConfig& config) {
  LoraPlan plan;
  plan.linears.assign(config.layers,
                      std::vector<std::optional<LoraShape>>(BlockLinears(config, 0).size()));
  return plan;
}

}  // namespace anneal::trainer
