#include "worker/trainer/engine/cell_pass.h"

#include <utility>
#include <vector>

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

}  // namespace

std::vector<double> TrainCells(Decoder& decoder, std::span<const PlacedCell> cells, uint64_t seed,
                               double loss_scale, TreeAccumulator& sums, PhaseTimer& timer,
                               protocol::RankReport& phases) {
  const int layers = static_cast<int>(decoder.config().layers);
  const int head_unit = layers + 1;
  const int lowest = decoder.lowest_trainable_unit();
  timer.Enter("forward", cells.front().batch->step);
  std::vector<CellInFlight> in_flight;
  decoder.SetDropoutKey(std::make_pair(seed, cells.front().batch->step));
  for (const PlacedCell& placed : cells) {
    Cell cell = decoder.MakeCell(*placed.batch);
    at::Tensor x_TD = decoder.EmbedForward(cell);
    in_flight.push_back(
        {placed, std::move(cell), std::move(x_TD), std::vector<BlockSaved>(layers)});
  }
  for (int layer = 0; layer < layers; ++layer) {
    const bool needs_backward = layer + 1 >= lowest;
    for (CellInFlight& flying : in_flight) {
      flying.x_TD = decoder.BlockForward(layer, flying.x_TD, flying.cell,
                                         needs_backward ? &flying.saved[layer] : nullptr);
    }
  }
  timer.Lap(phases.forward_seconds);

  timer.Enter("backward", cells.front().batch->step);
  std::vector<double> losses;
  for (CellInFlight& flying : in_flight) {
    UnitBuffer gradient = sums.Take(head_unit);
    flying.embedding_gradient = sums.Take(0);
    const std::span<at::Tensor> tied = decoder.config().tie_word_embeddings
                                           ? flying.embedding_gradient.views
                                           : std::span<at::Tensor>();
    const HeadResult head =
        decoder.Head(flying.x_TD, flying.cell, loss_scale, gradient.views, tied, {});
    sums.Add(head_unit, flying.placed.shard, flying.placed.ends_shard, std::move(gradient));
    losses.push_back(SumInDouble(head.losses_S));
    flying.x_TD = at::Tensor();
    flying.dx_TD = head.dx_TD;
  }
  for (int layer = layers - 1; layer >= 0 && layer + 1 >= lowest; --layer) {
    for (CellInFlight& flying : in_flight) {
      UnitBuffer gradient = sums.Take(layer + 1);
      flying.dx_TD = decoder.BlockBackward(layer, flying.dx_TD, flying.cell, flying.saved[layer],
                                           gradient.views,
                                           /*need_dx=*/layer + 1 > lowest);
      flying.saved[layer] = {};
      sums.Add(layer + 1, flying.placed.shard, flying.placed.ends_shard, std::move(gradient));
    }
  }
  for (CellInFlight& flying : in_flight) {
    if (lowest == 0)
      decoder.EmbedBackward(flying.dx_TD, flying.cell, flying.embedding_gradient.views);
    sums.Add(0, flying.placed.shard, flying.placed.ends_shard, std::move(flying.embedding_gradient));
  }
  timer.Lap(phases.backward_seconds);
  return losses;
}

HeadResult EvaluateCell(Decoder& decoder, const MicroBatch& batch,
                        std::span<const int64_t> choices) {
  decoder.SetDropoutKey(std::nullopt);
  const Cell cell = decoder.MakeCell(batch);
  at::Tensor x_TD = decoder.EmbedForward(cell);
  for (int layer = 0; layer < decoder.config().layers; ++layer) {
    x_TD = decoder.BlockForward(layer, x_TD, cell, nullptr);
  }
  return decoder.Head(x_TD, cell, std::nullopt, {}, {}, choices);
}

}  // namespace anneal::trainer
