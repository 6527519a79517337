#include "worker/trainer/engine/evaluator.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <map>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/trainer/engine/cell_pass.h"

namespace anneal::trainer {
namespace {

constexpr size_t kMaxChoices = 16;

// The supervised tokens of a row if they are one unbroken span, else nothing.
std::optional<std::vector<int32_t>> SupervisedSpan(const PreparedExample& row) {
  const auto begin = std::find(row.loss_weight.begin(), row.loss_weight.end(), 1);
  const auto end = std::find(begin, row.loss_weight.end(), 0);
  if (begin == end || std::find(end, row.loss_weight.end(), 1) != row.loss_weight.end())
    return std::nullopt;
  const auto first = row.token_ids.begin() + (begin - row.loss_weight.begin());
  return std::vector<int32_t>(first, first + (end - begin));
}

}  // namespace

std::optional<ChoiceTask> FindChoiceTask(const std::vector<PreparedExample>& rows) {
  std::map<int32_t, std::vector<int32_t>> answer_by_first_token;
  std::vector<int32_t> first_tokens;
  for (const PreparedExample& row : rows) {
    const std::optional<std::vector<int32_t>> span = SupervisedSpan(row);
    if (!span.has_value()) return std::nullopt;
    const auto [answer, is_new] = answer_by_first_token.try_emplace(span->front(), *span);
    if (answer->second != *span || answer_by_first_token.size() > kMaxChoices) return std::nullopt;
    first_tokens.push_back(span->front());
  }
  if (answer_by_first_token.size() < 2) return std::nullopt;

  ChoiceTask task;
  for (const auto& [token, span] : answer_by_first_token) task.first_tokens.push_back(token);
  for (int32_t token : first_tokens) {
    const auto place = answer_by_first_token.find(token);
    task.gold.push_back(std::distance(answer_by_first_token.begin(), place));
  }
  return task;
}

absl::StatusOr<std::unique_ptr<Evaluator>> Evaluator::Create(
    const PreparedDataset& dataset, Decoder& decoder, ShardedValues& values,
    Communicator& communicator, Accelerator& accelerator, const Options& options) {
  std::unique_ptr<Evaluator> evaluator(new Evaluator(decoder, values, communicator, accelerator));
  const int64_t count = std::min(dataset.size(), options.max_rows);
  std::vector<int64_t> chosen;
  std::vector<PreparedExample> rows;
  for (int64_t i = 0; i < count; ++i) {
    chosen.push_back(i * dataset.size() / count);
    ANNEAL_ASSIGN_OR_RETURN(rows.emplace_back(), dataset.Example(chosen.back()));
    evaluator->supervised_tokens_ += dataset.supervised_tokens(chosen.back());
  }
  evaluator->choice_task_ = FindChoiceTask(rows);

  const BatchAssembler assembler([&](int64_t row) { return dataset.Example(row); },
                                 options.microbatch_tokens);
  ANNEAL_ASSIGN_OR_RETURN(evaluator->cells_,
                          assembler.Assemble(/*step=*/0, /*logical_shard=*/0, chosen));
  for (const MicroBatch& cell : evaluator->cells_) {
    evaluator->first_row_.push_back(evaluator->rows_);
    evaluator->rows_ += cell.source_rows.size();
  }
  return evaluator;
}

absl::StatusOr<protocol::EvaluationReport> Evaluator::Run(
    int64_t step, const std::function<void()>& before_cell) {
  std::vector<RowResult> results(rows_);
  for (size_t first = 0; first < cells_.size(); first += communicator_.world_size()) {
    before_cell();
    ANNEAL_RETURN_IF_ERROR(EvaluateOne(first + communicator_.rank(), results));
  }
  ANNEAL_RETURN_IF_ERROR(Share(results, step));

  RowResult sum{};
  for (const RowResult& row : results) {
    sum.loss += row.loss;
    sum.exact += row.exact;
    sum.chosen += row.chosen;
  }
  protocol::EvaluationReport report;
  report.step = step;
  report.rows = static_cast<int64_t>(rows_);
  report.loss = sum.loss / static_cast<double>(supervised_tokens_);
  report.exact_match = sum.exact / static_cast<double>(rows_);
  if (choice_task_.has_value()) report.choice_accuracy = sum.chosen / static_cast<double>(rows_);
  return report;
}

absl::Status Evaluator::EvaluateOne(size_t cell, std::vector<RowResult>& results) {
  const std::span<const int64_t> choices =
      choice_task_.has_value() ? std::span<const int64_t>(choice_task_->first_tokens)
                               : std::span<const int64_t>();
  ANNEAL_ASSIGN_OR_RETURN(
      const std::optional<HeadResult> evaluated,
      EvaluateCell(decoder_, values_, cell < cells_.size() ? &cells_[cell] : nullptr, choices));
  if (!evaluated.has_value()) return absl::OkStatus();
  const HeadResult& head = *evaluated;
  const MicroBatch& batch = cells_[cell];
  const at::Tensor losses = head.losses_S.to(at::kCPU, at::kDouble).contiguous();
  const at::Tensor correct = head.correct_S.cpu().contiguous();
  at::Tensor best_choice;
  if (choice_task_.has_value()) best_choice = head.choice_logits_SN.argmax(1).cpu().contiguous();

  for (size_t row = 0; row < batch.source_rows.size(); ++row)
    results[first_row_[cell] + row] = {0, 1, 0};
  int32_t last_row = -1;
  for (size_t s = 0; s < batch.targets.size(); ++s) {
    const int32_t row = batch.supervised_rows[s];
    const size_t place = first_row_[cell] + row;
    results[place].loss += losses.const_data_ptr<double>()[s];
    if (!correct.const_data_ptr<bool>()[s]) results[place].exact = 0;
    if (choice_task_.has_value() && row != last_row) {
      results[place].chosen = best_choice.const_data_ptr<int64_t>()[s] == choice_task_->gold[place];
    }
    last_row = row;
  }
  return absl::OkStatus();
}

absl::Status Evaluator::Share(std::vector<RowResult>& results, int64_t step) {
  static_assert(sizeof(RowResult) == 3 * sizeof(double));
  const size_t world_size = communicator_.world_size();
  const int64_t numbers = static_cast<int64_t>(3 * rows_);
  const at::Tensor own =
      at::from_blob(results.data(), {numbers}, at::kDouble).to(accelerator_.device());
  at::Tensor all = at::empty({static_cast<int64_t>(world_size) * numbers}, own.options());
  ANNEAL_RETURN_IF_ERROR(
      communicator_.AllGather(own, all, absl::StrCat("share evaluation step ", step)));
  all = all.cpu();
  const RowResult* gathered = reinterpret_cast<const RowResult*>(all.const_data_ptr<double>());
  for (size_t cell = 0; cell < cells_.size(); ++cell) {
    const RowResult* of_rank = gathered + (cell % world_size) * rows_;
    for (size_t i = 0; i < cells_[cell].source_rows.size(); ++i) {
      results[first_row_[cell] + i] = of_rank[first_row_[cell] + i];
    }
  }
  return absl::OkStatus();
}

}  // namespace anneal::trainer
