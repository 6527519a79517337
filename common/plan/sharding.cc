#include "common/plan/sharding.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"

namespace anneal {
namespace {

constexpr std::pair<Sharding, absl::string_view> kNames[] = {
    {Sharding::kNone, "NONE"},
    {Sharding::kOptimizer, "OPTIMIZER"},
    {Sharding::kGradients, "GRADIENTS"},
    {Sharding::kFull, "FULL"},
};

}  // namespace

absl::StatusOr<Sharding> ParseSharding(absl::string_view name) {
  std::vector<absl::string_view> names;
  for (const auto& [sharding, known] : kNames) {
    if (name == known) return sharding;
    names.push_back(known);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("sharding '", name, "' is not one of ", absl::StrJoin(names, ", ")));
}

absl::string_view ShardingName(Sharding sharding) {
  for (const auto& [known, name] : kNames) {
    if (known == sharding) return name;
  }
  ANNEAL_CHECK(false);
  return "";
}

}  // namespace anneal
