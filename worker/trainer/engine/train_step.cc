#include "worker/trainer/engine/train_step.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/trainer/engine/cell_pass.h"
#include "worker/trainer/shard/gradient_norm.h"

namespace anneal::trainer {
namespace {

using Pass = std::vector<PlacedCell>;

// The cells of a rank in order, cut into passes of at most `tokens_together` tokens, or one cell.
// Cells without anything that counts are left out.
std::vector<Pass> PassesOf(const std::vector<std::vector<MicroBatch>>& shards,
                           int64_t tokens_together) {
  std::vector<Pass> passes;
  int64_t tokens_in_pass = 0;
  for (size_t shard = 0; shard < shards.size(); ++shard) {
    for (const MicroBatch& batch : shards[shard]) {
      if (batch.targets.empty()) continue;
      const int64_t tokens = static_cast<int64_t>(batch.token_ids.size());
      if (passes.empty() || tokens_in_pass + tokens > tokens_together) {
        passes.emplace_back();
        tokens_in_pass = 0;
      }
      passes.back().push_back({static_cast<int>(shard), &batch == &shards[shard].back(), &batch});
      tokens_in_pass += tokens;
    }
  }
  return passes;
}

absl::Status CheckFinite(int64_t step, double loss, double grad_norm) {
  if (std::isfinite(loss) && std::isfinite(grad_norm)) return absl::OkStatus();
  return WithReason(absl::FailedPreconditionError(absl::StrCat(
                        "step ", step, ": the loss is ", loss, " and the gradient norm ", grad_norm,
                        "; nothing was updated. A lower learning_rate or max_grad_norm, or a "
                        "longer warm-up, usually helps")),
                    "NON_FINITE_LOSS");
}

void Scale(const FlatParts& parts, double factor) {
  for (at::Tensor part : parts) {
    if (part.defined()) part.mul_(factor);
  }
}

}  // namespace

TrainStep::TrainStep(const Parts& parts, const TrainStepOptions& options)
    : parts_(parts),
      options_(options),
      gradient_(parts.layout, parts.values.part(),
                {.sharding = parts.values.sharding(), .reduction = options.reduction},
                parts.communicator, parts.accelerator.device()) {}

absl::StatusOr<StepOutcome> TrainStep::Run(const PlannedStep& planned, double learning_rate,
                                           const StepVote& vote, protocol::RankReport& phases) {
  parts_.timer.Enter("fetch", planned.step);
  ANNEAL_ASSIGN_OR_RETURN(const auto shards, Fetch(planned));
  parts_.timer.Lap(phases.fetch_seconds);

  const double loss_scale =
      planned.supervised_tokens > 0 ? 1.0 / static_cast<double>(planned.supervised_tokens) : 0;
  gradient_.Begin(planned);
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<double> own_losses,
                          ForwardBackward(shards, planned.step, loss_scale, phases));

  parts_.timer.Enter("reduce", planned.step);
  ANNEAL_RETURN_IF_ERROR(gradient_.ReduceDownTo(0));
  ANNEAL_ASSIGN_OR_RETURN(const Agreed agreed, ShareLosses(own_losses, vote, planned.step));
  const double loss = agreed.loss_sum * loss_scale;
  const FlatParts& gradient = gradient_.parts();
  ANNEAL_ASSIGN_OR_RETURN(
      const double grad_norm,
      GradientNorm(parts_.accelerator.kernels(), gradient, parts_.values.part(),
                   parts_.communicator, absl::StrCat("share gradient norm step ", planned.step)));
  ANNEAL_RETURN_IF_ERROR(CheckFinite(planned.step, loss, grad_norm));
  parts_.timer.Lap(phases.reduce_seconds);

  parts_.timer.Enter("update", planned.step);
  const double clip = ClipCoefficient(grad_norm, options_.max_grad_norm);
  if (clip < 1) Scale(gradient, clip);
  parts_.optimizer.Step(planned.step, learning_rate, parts_.values.own(), gradient);
  gradient_.GiveBack();
  parts_.timer.Lap(phases.update_seconds);

  parts_.timer.Enter("reduce", planned.step);
  ANNEAL_RETURN_IF_ERROR(parts_.values.Share(absl::StrCat("after step ", planned.step)));
  parts_.timer.Lap(phases.reduce_seconds);

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
  const int per_rank =
      static_cast<int>(planned.shard_rows.size()) / parts_.communicator.world_size();
  return {per_rank * parts_.communicator.rank(), per_rank * (parts_.communicator.rank() + 1)};
}

absl::StatusOr<std::vector<std::vector<MicroBatch>>> TrainStep::Fetch(
    const PlannedStep& planned) const {
  std::vector<std::vector<MicroBatch>> shards;
  const ShardRange own = OwnShards(planned);
  for (int shard = own.first; shard < own.last; ++shard) {
    ANNEAL_ASSIGN_OR_RETURN(
        shards.emplace_back(),
        parts_.assembler.Assemble(planned.step, shard, planned.shard_rows[shard]));
  }
  return shards;
}

absl::StatusOr<std::vector<double>> TrainStep::ForwardBackward(
    const std::vector<std::vector<MicroBatch>>& shards, int64_t step, double loss_scale,
    protocol::RankReport& phases) {
  for (const std::vector<MicroBatch>& shard : shards) {
    for (const MicroBatch& batch : shard)
      phases.tokens += static_cast<int64_t>(batch.token_ids.size());
  }
  std::vector<Pass> passes = PassesOf(shards, options_.tokens_together);
  if (parts_.values.sharding() == Sharding::kFull) {
    parts_.timer.Enter("reduce", step);
    ANNEAL_ASSIGN_OR_RETURN(const size_t agreed, AgreeOnPasses(passes.size(), step));
    passes.resize(agreed);
    parts_.timer.Lap(phases.reduce_seconds);
  }
  std::vector<double> losses(shards.size());
  for (const Pass& pass : passes) {
    const bool reduce_at_once =
        &pass == &passes.back() && parts_.values.sharding() >= Sharding::kGradients;
    const auto after_backward = [&](int unit) -> absl::Status {
      if (!reduce_at_once) return absl::OkStatus();
      parts_.timer.Lap(phases.backward_seconds);
      parts_.timer.Enter("reduce", step);
      ANNEAL_RETURN_IF_ERROR(parts_.values.Settle());
      ANNEAL_RETURN_IF_ERROR(gradient_.ReduceDownTo(unit));
      parts_.timer.Lap(phases.reduce_seconds);
      parts_.timer.Enter("backward", step);
      return absl::OkStatus();
    };
    ANNEAL_ASSIGN_OR_RETURN(const std::vector<double> cell_losses,
                            TrainCells({.decoder = parts_.decoder,
                                        .values = parts_.values,
                                        .sums = gradient_.sums(),
                                        .timer = parts_.timer,
                                        .phases = phases,
                                        .step = step,
                                        .seed = options_.seed,
                                        .loss_scale = loss_scale,
                                        .after_backward = after_backward},
                                       pass));
    for (size_t i = 0; i < pass.size(); ++i) losses[pass[i].shard] += cell_losses[i];
  }
  return losses;
}

absl::StatusOr<size_t> TrainStep::AgreeOnPasses(size_t own, int64_t step) {
  const at::Tensor sent =
      at::full({1}, static_cast<int64_t>(own), at::kLong).to(parts_.accelerator.device());
  at::Tensor received = at::empty({parts_.communicator.world_size()}, sent.options());
  ANNEAL_RETURN_IF_ERROR(
      parts_.communicator.AllGather(sent, received, absl::StrCat("agree on passes step ", step)));
  return received.max().item<int64_t>();
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
  const at::Tensor sent =
      at::from_blob(message.data(), {size}, at::kDouble).to(parts_.accelerator.device());
  at::Tensor received = at::empty({world_size * size}, on_device);
  ANNEAL_RETURN_IF_ERROR(
      parts_.communicator.AllGather(sent, received, absl::StrCat("share losses step ", step)));
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
