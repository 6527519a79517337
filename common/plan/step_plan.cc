#include "common/plan/step_plan.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/numeric/bits.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/plan/permutation.h"

namespace anneal {
namespace {

// Deals `batch` over `shards` by LPT; ties go to the earlier row and the lower shard.
std::vector<std::vector<int64_t>> DealRows(const std::vector<int64_t>& batch,
                                           const std::vector<RowSize>& rows, int shards) {
  std::vector<size_t> longest_first(batch.size());
  std::iota(longest_first.begin(), longest_first.end(), 0);
  std::stable_sort(longest_first.begin(), longest_first.end(), [&](size_t a, size_t b) {
    return rows[batch[a]].tokens > rows[batch[b]].tokens;
  });
  std::vector<int64_t> load(shards, 0);
  std::vector<int> shard_of(batch.size());
  for (size_t i : longest_first) {
    const auto lightest = std::min_element(load.begin(), load.end());
    *lightest += rows[batch[i]].tokens;
    shard_of[i] = static_cast<int>(lightest - load.begin());
  }
  std::vector<std::vector<int64_t>> dealt(shards);
  for (size_t i = 0; i < batch.size(); ++i) dealt[shard_of[i]].push_back(batch[i]);
  return dealt;
}

}  // namespace

absl::StatusOr<StepPlan> StepPlan::Create(std::vector<RowSize> rows,
                                          const StepPlanOptions& options) {
  if (rows.empty()) return absl::InvalidArgumentError("step plan: the data set has no rows");
  if (options.batch_size < 1 || options.epochs < 1 || options.max_steps < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "step plan: batch_size ", options.batch_size, ", epochs ", options.epochs, ", max_steps ",
        options.max_steps, ": the first two must be at least 1, the last at least 0"));
  }
  if (options.logical_shards < 1 ||
      !absl::has_single_bit(static_cast<uint32_t>(options.logical_shards))) {
    return absl::InvalidArgumentError(absl::StrCat(
        "step plan: logical_shards ", options.logical_shards, " is not a power of two"));
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].tokens < 1 || rows[i].supervised_tokens < 0 ||
        rows[i].supervised_tokens >= rows[i].tokens) {
      return absl::InvalidArgumentError(absl::StrCat("step plan: row ", i, " has ", rows[i].tokens,
                                                     " tokens of which ", rows[i].supervised_tokens,
                                                     " are supervised"));
    }
  }
  return StepPlan(std::move(rows), options);
}

StepPlan::StepPlan(std::vector<RowSize> rows, const StepPlanOptions& options)
    : rows_(std::move(rows)), options_(options) {
  steps_per_epoch_ = (this->rows() + options_.batch_size - 1) / options_.batch_size;
  total_steps_ = steps_per_epoch_ * options_.epochs;
  if (options_.max_steps > 0) total_steps_ = std::min(total_steps_, options_.max_steps);
}

PlannedStep StepPlan::At(int64_t step) const {
  ANNEAL_CHECK(step >= 1 && step <= total_steps_);
  PlannedStep planned;
  planned.step = step;
  planned.epoch = static_cast<int32_t>((step - 1) / steps_per_epoch_);

  const int64_t begin = (step - 1) % steps_per_epoch_ * options_.batch_size;
  const int64_t end = std::min(begin + options_.batch_size, rows());
  const Permutation order(rows(), MixKeys(options_.seed, static_cast<uint64_t>(planned.epoch)));
  std::vector<int64_t> batch;
  batch.reserve(end - begin);
  for (int64_t i = begin; i < end; ++i) {
    batch.push_back(order.At(i));
    planned.tokens += rows_[batch.back()].tokens;
  }
  planned.shard_rows = DealRows(batch, rows_, options_.logical_shards);
  for (const std::vector<int64_t>& shard : planned.shard_rows) {
    int64_t supervised = 0;
    for (int64_t row : shard) supervised += rows_[row].supervised_tokens;
    planned.shard_supervised_tokens.push_back(supervised);
    planned.supervised_tokens += supervised;
  }
  return planned;
}

double StepPlan::EpochsAfter(int64_t step) const {
  const int64_t whole = step / steps_per_epoch_;
  const int64_t rows_into_epoch = step % steps_per_epoch_ * options_.batch_size;
  return static_cast<double>(whole) +
         static_cast<double>(rows_into_epoch) / static_cast<double>(rows());
}

}  // namespace anneal
