#include "worker/trainer/engine/cell_pass.h"

#include <utility>
#include <vector>

namespace anneal::trainer {
namespace {

double SumInDouble(const at::Tensor& losses_S) {
  const at::Tensor losses = losses_S.to(at::kCPU, at::kDouble).contiguous();
  double sum = 0;
  for (int64_t i = 0; i < losses.numel(); ++i) sum += losses.const_data_ptr<double>()[i];
  return sum;
}

}  // namespace

double TrainCell(Decoder& decoder, const MicroBatch& batch, uint64_t seed, double loss_scale, FlatBuffers& gradient,
                 PhaseTimer& timer, protocol::RankReport& phases) {
  const int layers = static_cast<int>(decoder.config().layers);
  const int head_unit = layers + 1;
  const int lowest = decoder.lowest_trainable_unit();
  timer.Enter("forward", batch.step);
  decoder.SetDropoutKey(std::make_pair(seed, batch.step));
  const Cell cell = decoder.MakeCell(batch);

  at::Tensor x_TD = decoder.EmbedForward(cell);
  std::vector<BlockSaved> saved(layers);
  for (int layer = 0; layer < layers; ++layer) {
    const bool needs_backward = layer + 1 >= lowest;
    x_TD = decoder.BlockForward(layer, x_TD, cell, needs_backward ? &saved[layer] : nullptr);
  }
  timer.Lap(phases.forward_seconds);

  timer.Enter("backward", batch.step);
  const std::span<at::Tensor> tied =
      decoder.config().tie_word_embeddings ? gradient.views(0) : std::span<at::Tensor>();
  const HeadResult head = decoder.Head(x_TD, cell, loss_scale, gradient.views(head_unit), tied, {});
  at::Tensor dx_TD = head.dx_TD;
  for (int layer = layers - 1; layer >= 0 && layer + 1 >= lowest; --layer) {
    dx_TD = decoder.BlockBackward(layer, dx_TD, cell, saved[layer], gradient.views(layer + 1),
                                  /*need_dx=*/layer + 1 > lowest);
    saved[layer] = {};
  }
  if (lowest == 0) decoder.EmbedBackward(dx_TD, cell, gradient.views(0));
  timer.Lap(phases.backward_seconds);
  return SumInDouble(head.losses_S);
}

HeadResult EvaluateCell(Decoder& decoder, const MicroBatch& batch, std::span<const int64_t> choices) {
  decoder.SetDropoutKey(std::nullopt);
  const Cell cell = decoder.MakeCell(batch);
  at::Tensor x_TD = decoder.EmbedForward(cell);
  for (int layer = 0; layer < decoder.config().layers; ++layer) {
    x_TD = decoder.BlockForward(layer, x_TD, cell, nullptr);
  }
  return decoder.Head(x_TD, cell, std::nullopt, {}, {}, choices);
}

}  // namespace anneal::trainer
