#include "worker/trainer/data/batch_assembler.h"

#include <utility>

#include "common/base/status.h"

namespace anneal::trainer {
namespace {

void AppendRow(int64_t row, const PreparedExample& example, MicroBatch& batch) {
  const int64_t start = static_cast<int64_t>(batch.token_ids.size());
  const int64_t length = static_cast<int64_t>(example.token_ids.size());
  const int32_t row_in_batch = static_cast<int32_t>(batch.source_rows.size());
  for (int64_t p = 0; p < length; ++p) {
    batch.token_ids.push_back(example.token_ids[p]);
    batch.positions.push_back(p);
    if (example.loss_weight[p] != 0) {  // never at p = 0: the data set's reader refuses that
      batch.supervised_positions.push_back(start + p - 1);
      batch.targets.push_back(example.token_ids[p]);
      batch.supervised_rows.push_back(row_in_batch);
    }
  }
  batch.source_rows.push_back(row);
  batch.row_starts.push_back(static_cast<int32_t>(batch.token_ids.size()));
}

}  // namespace

BatchAssembler::BatchAssembler(ExampleReader reader, int64_t microbatch_tokens)
    : reader_(std::move(reader)), microbatch_tokens_(microbatch_tokens) {
  ANNEAL_CHECK(microbatch_tokens >= 1);
}

absl::StatusOr<std::vector<MicroBatch>> BatchAssembler::Assemble(
    int64_t step, int32_t logical_shard, absl::Span<const int64_t> rows) const {
  std::vector<MicroBatch> batches;
  for (int64_t row : rows) {
    ANNEAL_ASSIGN_OR_RETURN(const PreparedExample example, reader_(row));
    if (batches.empty() || static_cast<int64_t>(batches.back().token_ids.size() +
                                                example.token_ids.size()) > microbatch_tokens_) {
      MicroBatch batch;
      batch.step = step;
      batch.logical_shard = logical_shard;
      batch.index = static_cast<int32_t>(batches.size());
      batch.row_starts = {0};
      batches.push_back(std::move(batch));
    }
    AppendRow(row, example, batches.back());
  }
  return batches;
}

}  // namespace anneal::trainer
