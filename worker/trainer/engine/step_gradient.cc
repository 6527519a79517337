#include "worker/trainer/engine/step_gradient.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace anneal::trainer {
namespace {

// Ranks whose shards hold anything that counts for the loss: the same knowledge everywhere, without
// a message.
std::vector<bool> RanksWithValues(const PlannedStep& step, int world_size) {
  const size_t per_rank = step.shard_rows.size() / world_size;
  std::vector<bool> has_values(world_size, false);
  for (size_t shard = 0; shard < step.shard_rows.size(); ++shard) {
    if (step.shard_supervised_tokens[shard] > 0) has_values[shard / per_rank] = true;
  }
  return has_values;
}

}  // namespace

StepGradient::StepGradient(const FlatLayout& layout, const Part& part, const Options& options,
                           Communicator& communicator, at::Device device)
    : layout_(layout),
      part_(part),
      options_(options),
      communicator_(communicator),
      reducer_(communicator),
      sums_(layout, device),
      parts_(options.sharding >= Sharding::kGradients ? ZeroParts(layout, part, device)
                                                      : FlatParts(layout.units().size())),
      roots_(layout.units().size()) {}

void StepGradient::Begin(const PlannedStep& step) {
  step_ = step.step;
  shards_ = static_cast<int>(step.shard_rows.size()) / communicator_.world_size();
  has_values_ = RanksWithValues(step, communicator_.world_size());
  next_ = static_cast<int>(layout_.units().size()) - 1;
}

absl::Status StepGradient::ReduceDownTo(int unit) {
  for (; next_ >= unit; --next_) ANNEAL_RETURN_IF_ERROR(Reduce(next_));
  return absl::OkStatus();
}

absl::Status StepGradient::Reduce(int unit) {
  UnitBuffer root = sums_.TakeRoot(unit, shards_);
  if (!root.flat.defined()) return absl::OkStatus();
  const std::string tag = absl::StrCat("reduce ", layout_.units()[unit].name, " step ", step_);
  if (options_.sharding >= Sharding::kGradients) {
    ANNEAL_RETURN_IF_ERROR(SumOverRanks(root.flat, parts_[unit], tag));
    sums_.GiveBack(unit, std::move(root));
    return absl::OkStatus();
  }
  parts_[unit] = part_.Of(root.flat);
  ANNEAL_RETURN_IF_ERROR(SumOverRanks(root.flat, parts_[unit], tag));
  roots_[unit] = std::move(root);
  return absl::OkStatus();
}

absl::Status StepGradient::SumOverRanks(at::Tensor& flat, at::Tensor& part, absl::string_view tag) {
  const bool fixed = options_.reduction == Reduction::kFixedOrder;
  if (part_.count == 1) {
    return fixed ? reducer_.Sum(flat, has_values_, tag)
                 : SumInAnyOrder(communicator_, flat, has_values_, tag);
  }
  return fixed ? reducer_.SumPart(flat, has_values_, part, tag)
               : SumPartInAnyOrder(communicator_, flat, has_values_, part, tag);
}

void StepGradient::GiveBack() {
  for (int unit = 0; unit < static_cast<int>(roots_.size()); ++unit) {
    if (roots_[unit].flat.defined()) sums_.GiveBack(unit, std::exchange(roots_[unit], {}));
  }
}

}  // namespace anneal::trainer
