#include "worker/trainer/engine/memory_question.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "common/format/model_tensors.h"

namespace anneal::trainer {
namespace {

constexpr int64_t kStepsLookedAt = 64;

int64_t ElementsOf(const std::vector<int64_t>& shape) {
  int64_t elements = 1;
  for (int64_t extent : shape) elements *= extent;
  return elements;
}

// Elements of those of the model's own tensors that the unit does not train.
int64_t FrozenElements(const std::vector<ExpectedTensor>& tensors, const ParameterUnit& unit) {
  std::set<std::string> trained;
  for (const ParameterSpec& spec : unit.parameters) trained.insert(spec.name);
  int64_t elements = 0;
  for (const ExpectedTensor& tensor : tensors) {
    if (!trained.contains(tensor.name)) elements += ElementsOf(tensor.shape);
  }
  return elements;
}

std::vector<UnitSize> UnitsOf(const Decoder& decoder, const FlatLayout& layout) {
  const ModelConfig& config = decoder.config();
  std::vector<UnitSize> units;
  for (int64_t unit = 0; unit < config.layers + 2; ++unit) {
    const std::vector<ExpectedTensor> tensors = unit == 0 ? EmbeddingTensors(config)
                                                : unit == config.layers + 1
                                                    ? HeadTensors(config)
                                                    : BlockTensors(config, unit - 1);
    units.push_back({.trainable = layout.units()[unit].elements,
                     .frozen = FrozenElements(tensors, decoder.units()[unit])});
  }
  return units;
}

// The ranks of a block's adapters, added up.
int64_t LowRankOf(const ParameterUnit& unit) {
  int64_t sum = 0;
  for (const ParameterSpec& spec : unit.parameters) {
    if (absl::EndsWith(spec.name, ".lora_A.weight")) sum += spec.shape[0];
  }
  return sum;
}

// Token counts of the cells that BatchAssembler makes of a shard's rows.
std::vector<int64_t> CellsOf(const std::vector<int64_t>& rows, int64_t microbatch_tokens,
                             const std::function<int64_t(int64_t row)>& row_tokens) {
  std::vector<int64_t> cells;
  for (const int64_t row : rows) {
    const int64_t tokens = row_tokens(row);
    if (cells.empty() || cells.back() + tokens > microbatch_tokens) cells.push_back(0);
    cells.back() += tokens;
  }
  return cells;
}

// What a rank's shards of a step, [first, last), add to the question.
void Widen(const PlannedStep& step, int first, int last, int64_t microbatch_tokens,
           const std::function<int64_t(int64_t row)>& row_tokens, MemoryQuestion& question,
           int64_t& longest_cell) {
  int64_t tokens = 0, cells_in_pass = 0;
  bool is_first_pass = true;
  for (int shard = first; shard < last; ++shard) {
    const std::vector<int64_t> cells =
        CellsOf(step.shard_rows[shard], microbatch_tokens, row_tokens);
    question.shards_have_cells |= cells.size() > 1;
    for (const int64_t cell : cells) {
      if (cells_in_pass > 0 && tokens + cell > microbatch_tokens) {
        is_first_pass = false;
        tokens = cells_in_pass = 0;
      }
      tokens += cell;
      ++cells_in_pass;
      longest_cell = std::max(longest_cell, cell);
      question.tokens_together = std::max(question.tokens_together, tokens);
      question.cells_together = std::max(question.cells_together, cells_in_pass);
    }
  }
  question.all_together &= is_first_pass;
}

}  // namespace

MemoryQuestion MemoryQuestionOf(const protocol::TrainTask& task, const Decoder& decoder,
                                const FlatLayout& layout, const StepPlan& plan,
                                const std::function<int64_t(int64_t row)>& row_tokens,
                                bool device_is_host) {
  const ModelConfig& config = decoder.config();
  MemoryQuestion question;
  question.units = UnitsOf(decoder, layout);
  question.tied_embedding = config.tie_word_embeddings;
  question.compute_bytes = task.precision == "BF16" ? 2 : 4;
  question.logical_shards = task.logical_shards;
  question.world_size = task.world_size;
  question.checkpoints = !task.checkpoint_root.empty();
  question.device_is_host = device_is_host;

  int64_t longest_cell = 0;
  const int per_rank = task.logical_shards / task.world_size;
  const int64_t stride = std::max<int64_t>(1, plan.total_steps() / kStepsLookedAt);
  for (int64_t step = 1; step <= plan.total_steps(); step += stride) {
    const PlannedStep planned = plan.At(step);
    for (int rank = 0; rank < task.world_size; ++rank) {
      Widen(planned, rank * per_rank, (rank + 1) * per_rank, task.microbatch_tokens, row_tokens,
            question, longest_cell);
    }
  }

  const int lowest = std::max(1, decoder.lowest_trainable_unit());
  for (int64_t unit = lowest; unit <= config.layers; ++unit) {
    question.saved_bytes_per_token +=
        SavedBytesPerToken(config, LowRankOf(decoder.units()[unit]), question.compute_bytes);
  }
  question.saved_bytes_per_token += CellBytesPerToken(config, question.compute_bytes);
  const bool casts_weights =
      question.compute_bytes == 2 && !task.lora &&
      EffectiveSharding(*ParseSharding(task.sharding), task.world_size) == Sharding::kNone;
  question.working_bytes =
      WorkingBytes(config, longest_cell, question.compute_bytes, casts_weights);
  return question;
}

}  // namespace anneal::trainer
