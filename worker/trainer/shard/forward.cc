#include "worker/trainer/shard/forward.h"

#include <optional>

#include "common/base/status.h"

namespace anneal::trainer {

absl::StatusOr<at::Tensor> ForwardBlocks(Decoder& decoder, ShardedValues& values,
                                         const Cell* cell) {
  const int layers = static_cast<int>(decoder.config().layers);
  at::Tensor x_TD;
  ANNEAL_RETURN_IF_ERROR(values.Acquire(0, /*next=*/1));
  if (cell != nullptr) x_TD = decoder.EmbedForward(*cell);
  values.Release(0);
  for (int unit = 1; unit <= layers; ++unit) {
    ANNEAL_RETURN_IF_ERROR(values.Acquire(unit, /*next=*/unit + 1));
    if (cell != nullptr) x_TD = decoder.BlockForward(unit - 1, x_TD, *cell, /*saved=*/nullptr);
    values.Release(unit);
  }
  return x_TD;
}

absl::Status WithHead(Decoder& decoder, ShardedValues& values, const std::function<void()>& use) {
  const bool is_tied = decoder.config().tie_word_embeddings;
  const int head_unit = static_cast<int>(decoder.config().layers) + 1;
  ANNEAL_RETURN_IF_ERROR(values.Acquire(head_unit, is_tied ? 0 : -1));
  if (is_tied) ANNEAL_RETURN_IF_ERROR(values.Acquire(0, /*next=*/-1));
  use();
  values.Release(head_unit);
  if (is_tied) values.Release(0);
  return absl::OkStatus();
}

absl::StatusOr<at::Tensor> ForwardLogits(Decoder& decoder, ShardedValues& values,
                                         const MicroBatch& batch) {
  decoder.SetDropoutKey(std::nullopt);
  const Cell cell = decoder.MakeCell(batch);
  ANNEAL_ASSIGN_OR_RETURN(const at::Tensor x_TD, ForwardBlocks(decoder, values, &cell));
  at::Tensor logits;
  ANNEAL_RETURN_IF_ERROR(WithHead(decoder, values, [&] { logits = decoder.HeadLogits(x_TD); }));
  return logits;
}

}  // namespace anneal::trainer
