#pragma once
// Packs the rows of a logical shard into micro-batches.

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "worker/trainer/data/example_source.h"
#include "worker/trainer/data/micro_batch.h"

namespace anneal::trainer {

// Rows are taken in order and without padding until the next one would pass `microbatch_tokens`; a row longer than that stands
// alone. So the micro-batches of a shard depend on its rows and on this one number, never on workers. Reads only the rows it is
// asked for. `source` must outlive it. Thread-safe.
class BatchAssembler {
 public:
  BatchAssembler(const ExampleSource& source, int64_t microbatch_tokens);

  std::vector<MicroBatch> Assemble(int64_t step, int32_t logical_shard, absl::Span<const int64_t> rows) const;

 private:
  const ExampleSource& source_;
  const int64_t microbatch_tokens_;
};

}  // namespace anneal::trainer
