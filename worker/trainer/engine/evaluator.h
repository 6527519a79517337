#pragma once
// How well the model does on held-out rows.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "common/format/prepared_dataset.h"
#include "common/protocol/messages.h"
#include "worker/trainer/collective/communicator.h"
#include "worker/trainer/data/batch_assembler.h"
#include "worker/trainer/engine/accelerator.h"
#include "worker/trainer/model/decoder.h"
#include "worker/trainer/shard/sharded_values.h"

namespace anneal::trainer {

// A task with a few fixed answers, such as one-word labels: which tokens tell the answers apart,
// and which is right in each row.
struct ChoiceTask {
  std::vector<int64_t> first_tokens;  // of each answer, ascending
  std::vector<int64_t> gold;          // [rows] index into first_tokens
};

// The choice task behind the rows, if there is one: every row has one unbroken supervised span, at
// most 16 different spans occur, at least two, and no two begin with the same token.
std::optional<ChoiceTask> FindChoiceTask(const std::vector<PreparedExample>& rows);

// Mean loss over supervised tokens; share of rows whose supervised tokens are all the model's first
// choice; and for a choice task the share of rows whose right answer has the largest logit among
// the answers. Exact: cells depend on the validation set alone and are dealt whole to ranks, each
// row's loss is summed in double, and rows are added in order, so the numbers have the same bits
// for every world size. With more than `max_rows` rows, evenly spaced ones are used. Guarded by its
// caller.
class Evaluator {
 public:
  struct Options {
    int64_t max_rows = 256;
    int64_t microbatch_tokens = 512;
  };
  // All references must outlive it.
  static absl::StatusOr<std::unique_ptr<Evaluator>> Create(const PreparedDataset& dataset,
                                                           Decoder& decoder, ShardedValues& values,
                                                           Communicator& communicator,
                                                           Accelerator& accelerator,
                                                           const Options& options);

  // The report's seconds are left for the caller to fill. All ranks call it together and get the
  // same. `before_cell` is called again and again on the way, so that a hang can be told from a
  // long evaluation.
  absl::StatusOr<protocol::EvaluationReport> Run(int64_t step,
                                                 const std::function<void()>& before_cell);

 private:
  // Per row: summed loss, whether all tokens were right, whether the right answer was chosen.
  struct RowResult {
    double loss, exact, chosen;
  };

  Evaluator(Decoder& decoder, ShardedValues& values, Communicator& communicator,
            Accelerator& accelerator)
      : decoder_(decoder),
        values_(values),
        communicator_(communicator),
        accelerator_(accelerator) {}
  // Results of the cell's rows, into their places in `results`; no cell of that number, no results.
  absl::Status EvaluateOne(size_t cell, std::vector<RowResult>& results);
  absl::Status Share(std::vector<RowResult>& results, int64_t step);

  Decoder& decoder_;
  ShardedValues& values_;
  Communicator& communicator_;
  Accelerator& accelerator_;
  std::vector<MicroBatch> cells_;
  std::vector<size_t> first_row_;  // of each cell, counted over all cells
  size_t rows_ = 0;
  int64_t supervised_tokens_ = 0;
  std::optional<ChoiceTask> choice_task_;
};

}  // namespace anneal::trainer
