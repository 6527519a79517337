#include "worker/trainer/model/lora_targets.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/format/model_tensors.h"

namespace anneal::trainer {
namespace {

constexpr absl::string_view kAllLinear = "all-linear";

bool Matches(absl::string_view module, absl::string_view target) {
  return module == target || absl::EndsWith(module, absl::StrCat(".", target));
}

}  // namespace

absl::StatusOr<std::vector<std::vector<bool>>> ResolveLoraTargets(
    const ModelConfig& config, const std::vector<std::string>& targets) {
  const bool all = targets == std::vector<std::string>{std::string(kAllLinear)};
  std::vector<std::vector<bool>> adapted(config.layers,
                                         std::vector<bool>(BlockLinears(config, 0).size(), all));
  if (all) return adapted;
  if (targets.empty()) return absl::InvalidArgumentError("target_modules is empty");
  for (const std::string& target : targets) {
    bool found = false;
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      const std::vector<LinearModule> linears = BlockLinears(config, layer);
      for (size_t i = 0; i < linears.size(); ++i) {
        if (!Matches(linears[i].name, target)) continue;
        adapted[layer][i] = found = true;
      }
    }
    if (found) continue;
    if (target == kAllLinear)
      return absl::InvalidArgumentError("target_modules: all-linear stands alone");
    std::vector<std::string> names;
    for (const LinearModule& linear : BlockLinears(config, 0)) {
      names.push_back(linear.name.substr(linear.name.rfind('.') + 1));
    }
    return absl::InvalidArgumentError(
        absl::StrCat("target_modules: \"", target, "\" matches no linear layer; there are ",
                     absl::StrJoin(names, ", "), ", and all-linear for all of them"));
  }
  return adapted;
}

}  // namespace anneal::trainer
