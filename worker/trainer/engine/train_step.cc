#include "worker/trainer/engine/train_step.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/trainer/engine/cell_pass.h"
#include "worker/trainer/shard/gradient_norm.h"

namespace anneal::trainer {
namespace {

// Ranks whose shards hold anything that counts for the loss: the same knowledge everywhere, without a message.
std::vector<bool> RanksWithValues(const PlannedStep& planned, int world_size) {
  const size_t per_rank = planned.shard_rows.size() / world_size;
  std::vector<bool> has_values(world_size, false);
  for (size_t shard = 0; shard < planned.shard_rows.size(); ++shard) {
    if (planned.shard_supervised_tokens[shard] > 0) has_values[shard / per_rank] = true;
  }
  return has_values;
}

absl::Status CheckFinite(int64_t step, double loss, double grad_norm) {
  if (std::isfinite(loss) && std::isfinite(grad_norm)) return absl::OkStatus();
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(
          "step ", step, ": the loss is ", loss, " and the gradient norm ", grad_norm,
          "; nothing was updated. A lower learning_rate or max_grad_norm, or a longer warm-up, usually helps")),
      "NON_FINITE_LOSS");
}

}  // namespace

TrainStep::TrainStep(const Parts& parts, const TrainStepOptions& options)
    : parts_(parts),
      options_(options),
      reducer_(parts.communicator),
      accumulator_(parts.layout, parts.accelerator.device()) {}

absl::StatusOr<StepOutcome> TrainStep::Run(const PlannedStep& planned, double learning_rate, const StepVote& vote,
                                           protocol::RankReport& phases) {
  parts_.timer.Enter("fetch", planned.step);
  ANNEAL_ASSIGN_OR_RETURN(const auto shards, Fetch(planned));
  parts_.timer.Lap(phases.fetch_seconds);

  const double loss_scale = planned.supervised_tokens > 0 ? 1.0 / static_cast<double>(planned.supervised_tokens) : 0;
  const std::vector<double> own_losses = ForwardBackward(shards, loss_scale, phases);

  parts_.timer.Enter("reduce", planned.step);
  FlatBuffers gradient = accumulator_.TakeRoots(static_cast<int>(shards.size()));
  ANNEAL_RETURN_IF_ERROR(ReduceGradient(planned, gradient));
  ANNEAL_ASSIGN_OR_RETURN(const Agreed agreed, ShareLosses(own_losses, vote, planned.step));
  parts_.timer.Lap(phases.reduce_seconds);

  parts_.timer.Enter("update", planned.step);
  const double loss = agreed.loss_sum * loss_scale;
  const double grad_norm = GradientNorm(parts_.accelerator.kernels(), gradient);
  ANNEAL_RETURN_IF_ERROR(CheckFinite(planned.step, loss, grad_norm));
  const double clip = ClipCoefficient(grad_norm, options_.max_grad_norm);
  if (clip < 1) gradient.ScaleInPlace(clip);
  parts_.optimizer.Step(planned.step, learning_rate, parts_.values, gradient);
  accumulator_.GiveBack(std::move(gradient));
  parts_.timer.Lap(phases.update_seconds);

  phases.step = planned.step;
  return StepOutcome{.entry = {.step = planned.step,
                               .rows = planned.shard_rows,
                               .supervised_tokens = planned.supervised_tokens,
                               .loss = loss,
                               .learning_rate = learning_rate,
                               .grad_norm = grad_norm},
                     .agreed = agreed.vote};
}

TrainStep::ShardRange TrainStep::OwnShards(const PlannedStep& planned) const {
  const int per_rank = static_cast<int>(planned.shard_rows.size()) / parts_.communicator.world_size();
  return {per_rank * parts_.communicator.rank(), per_rank * (parts_.communicator.rank() + 1)};
}

absl::StatusOr<std::vector<std::vector<MicroBatch>>> TrainStep::Fetch(const PlannedStep& planned) const {
  std::vector<std::vector<MicroBatch>> shards;
  const ShardRange own = OwnShards(planned);
  for (int shard = own.first; shard < own.last; ++shard) {
    ANNEAL_ASSIGN_OR_RETURN(shards.emplace_back(),
                            parts_.assembler.Assemble(planned.step, shard, planned.shard_rows[shard]));
  }
  return shards;
}

std::vector<double> TrainStep::ForwardBackward(const std::vector<std::vector<MicroBatch>>& shards, double loss_scale,
                                               protocol::RankReport& phases) {
  std::vector<double> losses(shards.size());
  std::vector<PlacedCell> together;
  int64_t tokens_together = 0;
  const auto pass = [&] {
    const std::vector<double> cell_losses =
        TrainCells(parts_.decoder, together, options_.seed, loss_scale, accumulator_, parts_.timer, phases);
    for (size_t i = 0; i < together.size(); ++i) losses[together[i].shard] += cell_losses[i];
    together.clear();
    tokens_together = 0;
  };
  for (size_t shard = 0; shard < shards.size(); ++shard) {
    for (const MicroBatch& batch : shards[shard]) {
      const int64_t tokens = static_cast<int64_t>(batch.token_ids.size());
      phases.tokens += tokens;
      if (batch.targets.empty()) continue;
      if (!together.empty() && tokens_together + tokens > options_.tokens_together) pass();
      together.push_back({static_cast<int>(shard), &batch == &shards[shard].back(), &batch});
      tokens_together += tokens;
    }
  }
  if (!together.empty()) pass();
  return losses;
}

absl::Status TrainStep::ReduceGradient(const PlannedStep& planned, FlatBuffers& gradient) {
  const std::vector<bool> has_values = RanksWithValues(planned, parts_.communicator.world_size());
  for (int unit = 0; unit < gradient.units(); ++unit) {
    at::Tensor& flat = gradient.flat(unit);
    if (!flat.defined()) continue;
    const std::string tag = absl::StrCat("reduce ", parts_.layout.units()[unit].name, " step ", planned.step);
    ANNEAL_RETURN_IF_ERROR(options_.reduction == Reduction::kFixedOrder
                               ? reducer_.Sum(flat, has_values, tag)
                               : SumInAnyOrder(parts_.communicator, flat, has_values, tag));
  }
  return absl::OkStatus();
}

absl::StatusOr<TrainStep::Agreed> TrainStep::ShareLosses(const std::vector<double>& own_losses,
                                                         const StepVote& vote, int64_t step) {
  constexpr int64_t kVoteSize = 3;
  std::vector<double> message = own_losses;
  message.insert(message.end(), {static_cast<double>(vote.stop), vote.checkpoint ? 1.0 : 0.0,
                                 vote.part_is_done ? 1.0 : 0.0});
  const int64_t size = static_cast<int64_t>(message.size());
  const int world_size = parts_.communicator.world_size();
  const auto on_device = at::device(parts_.accelerator.device()).dtype(at::kDouble);
  const at::Tensor sent = at::from_blob(message.data(), {size}, at::kDouble).to(parts_.accelerator.device());
  at::Tensor received = at::empty({world_size * size}, on_device);
  ANNEAL_RETURN_IF_ERROR(parts_.communicator.AllGather(sent, received, absl::StrCat("share losses step ", step)));
  received = received.cpu();

  Agreed agreed{.loss_sum = 0, .vote = {.part_is_done = true}};
  for (int rank = 0; rank < world_size; ++rank) {
    const double* losses = received.const_data_ptr<double>() + rank * size;
    const double* votes = losses + size - kVoteSize;
    for (const double* loss = losses; loss < votes; ++loss) agreed.loss_sum += *loss;
    agreed.vote.stop = std::max(agreed.vote.stop, static_cast<int>(votes[0]));
    agreed.vote.checkpoint |= votes[1] != 0;
    agreed.vote.part_is_done &= votes[2] != 0;
  }
  return agreed;
}

}  // namespace anneal::trainer
