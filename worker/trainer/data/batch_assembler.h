#pragma once
// Packs the rows of a logical shard into micro-batches.

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/format/prepared_dataset.h"
#include "worker/trainer/data/micro_batch.h"

namespace anneal::trainer {

// Reads one row: PreparedDataset::Example in the trainer.
using ExampleReader = std::function<absl::StatusOr<PreparedExample>(int64_t row)>;

// Rows are taken in order and without padding until the next one would pass `microbatch_tokens`; a
// row longer than that stands alone. So the micro-batches of a shard depend on its rows and on this
// one number, never on workers. Reads only the rows it is asked for. Constant after construction,
// so as thread-safe as its reader.
class BatchAssembler {
 public:
  BatchAssembler(ExampleReader reader, int64_t microbatch_tokens);

  // A row that cannot be read is the reader's error.
  absl::StatusOr<std::vector<MicroBatch>> Assemble(int64_t step, int32_t logical_shard,
                                                   absl::Span<const int64_t> rows) const;

 private:
  const ExampleReader reader_;
  const int64_t microbatch_tokens_;
};

}  // namespace anneal::trainer
