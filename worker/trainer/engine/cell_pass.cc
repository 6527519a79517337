#include "worker/trainer/engine/cell_pass.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "worker/trainer/shard/forward.h"

namespace anneal::trainer {
namespace {

struct CellInFlight {
  PlacedCell placed;
  Cell cell;
  at::Tensor x_TD;                     // output of the last block passed, until the head
  std::vector<BlockSaved> saved;       // by layer, until its backward
  at::Tensor dx_TD = {};               // from the head on
  UnitBuffer embedding_gradient = {};  // a tied head writes into it first
};

double SumInDouble(const at::Tensor& losses_S) {
  const at::Tensor losses = losses_S.to(at::kCPU, at::kDouble).contiguous();
  double sum = 0;
  for (int64_t i = 0; i < losses.numel(); ++i) sum += losses.const_data_ptr<double>()[i];
  return sum;
}

// Has a unit gathered. The time until it is whole goes to `reduce`, that before it to `phase`:
// where nothing is gathered, none passes, and no device is waited for.
absl::Status Acquire(const CellPass& pass, int unit, int next, double& phase) {
  if (pass.values.sharding() != Sharding::kFull) return pass.values.Acquire(unit, next);
  pass.timer.Lap(phase);
  ANNEAL_RETURN_IF_ERROR(pass.values.Acquire(unit, next));
  pass.timer.Lap(pass.phases.reduce_seconds);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<double>> TrainCells(const CellPass& pass,
                                               std::span<const PlacedCell> cells) {
  Decoder& decoder = pass.decoder;
  ShardedValues& values = pass.values;
  TreeAccumulator& sums = pass.sums;
  const bool is_tied = decoder.config().tie_word_embeddings;
  const int layers = static_cast<int>(decoder.config().layers);
  const int head_unit = layers + 1;
  const int lowest = decoder.lowest_trainable_unit();
  pass.timer.Enter("forward", pass.step);
  std::vector<CellInFlight> in_flight;
  decoder.SetDropoutKey(std::make_pair(pass.seed, pass.step));
  ANNEAL_RETURN_IF_ERROR(Acquire(pass, 0, /*next=*/1, pass.phases.forward_seconds));
  for (const PlacedCell& placed : cells) {
    Cell cell = decoder.MakeCell(*placed.batch);
    at::Tensor x_TD = decoder.EmbedForward(cell);
    in_flight.push_back(
        {placed, std::move(cell), std::move(x_TD), std::vector<BlockSaved>(layers)});
  }
  values.Release(0);
  for (int unit = 1; unit <= layers; ++unit) {
    const int layer = unit - 1;
    const bool needs_backward = unit >= lowest;
    ANNEAL_RETURN_IF_ERROR(Acquire(pass, unit, /*next=*/unit + 1, pass.phases.forward_seconds));
    for (CellInFlight& flying : in_flight) {
      flying.x_TD = decoder.BlockForward(layer, flying.x_TD, flying.cell,
                                         needs_backward ? &flying.saved[layer] : nullptr);
    }
    values.Release(unit);
  }
  pass.timer.Lap(pass.phases.forward_seconds);

  pass.timer.Enter("backward", pass.step);
  double& backward = pass.phases.backward_seconds;
  const int first_backward = layers >= lowest && layers > 0 ? layers : -1;
  ANNEAL_RETURN_IF_ERROR(Acquire(pass, head_unit, is_tied ? 0 : first_backward, backward));
  if (is_tied) ANNEAL_RETURN_IF_ERROR(Acquire(pass, 0, first_backward, backward));
  std::vector<double> losses;
  for (CellInFlight& flying : in_flight) {
    UnitBuffer gradient = sums.Take(head_unit);
    flying.embedding_gradient = sums.Take(0);
    const std::span<at::Tensor> tied =
        is_tied ? flying.embedding_gradient.views : std::span<at::Tensor>();
    const HeadResult head =
        decoder.Head(flying.x_TD, flying.cell, pass.loss_scale, gradient.views, tied, {});
    sums.Add(head_unit, flying.placed.shard, flying.placed.ends_shard, std::move(gradient));
    losses.push_back(SumInDouble(head.losses_S));
    flying.x_TD = at::Tensor();
    flying.dx_TD = head.dx_TD;
  }
  values.Release(head_unit);
  if (is_tied) values.Release(0);
  ANNEAL_RETURN_IF_ERROR(pass.after_backward(head_unit));
  for (int unit = layers; unit >= std::max(1, lowest); --unit) {
    const int layer = unit - 1;
    const bool needs_more = unit > std::max(1, lowest);
    ANNEAL_RETURN_IF_ERROR(Acquire(pass, unit, needs_more ? unit - 1 : -1, backward));
    for (CellInFlight& flying : in_flight) {
      UnitBuffer gradient = sums.Take(unit);
      flying.dx_TD = decoder.BlockBackward(layer, flying.dx_TD, flying.cell, flying.saved[layer],
                                           gradient.views,
                                           /*need_dx=*/unit > lowest);
      flying.saved[layer] = {};
      sums.Add(unit, flying.placed.shard, flying.placed.ends_shard, std::move(gradient));
    }
    values.Release(unit);
    ANNEAL_RETURN_IF_ERROR(pass.after_backward(unit));
  }
  for (CellInFlight& flying : in_flight) {
    if (lowest == 0)
      decoder.EmbedBackward(flying.dx_TD, flying.cell, flying.embedding_gradient.views);
    sums.Add(0, flying.placed.shard, flying.placed.ends_shard,
             std::move(flying.embedding_gradient));
  }
  if (lowest == 0) ANNEAL_RETURN_IF_ERROR(pass.after_backward(0));
  pass.timer.Lap(backward);
  return losses;
}

absl::StatusOr<std::optional<HeadResult>> EvaluateCell(Decoder& decoder, ShardedValues& values,
                                                       const MicroBatch* batch,
                                                       std::span<const int64_t> choices) {
  decoder.SetDropoutKey(std::nullopt);
  std::optional<Cell> cell;
  if (batch != nullptr) cell = decoder.MakeCell(*batch);
  ANNEAL_ASSIGN_OR_RETURN(const at::Tensor x_TD,
                          ForwardBlocks(decoder, values, cell ? &*cell : nullptr));
  std::optional<HeadResult> result;
  ANNEAL_RETURN_IF_ERROR(WithHead(decoder, values, [&] {
    if (cell) result = decoder.Head(x_TD, *cell, std::nullopt, {}, {}, choices);
  }));
  return result;
}

}  // namespace anneal::trainer
