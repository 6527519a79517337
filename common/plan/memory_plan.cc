#include "common/plan/memory_plan.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "absl/numeric/bits.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status.h"

namespace anneal {
namespace {

constexpr int64_t kMasterBytes = 4;  // of masters, moments and gradients: fp32

int64_t SumOf(const std::vector<UnitSize>& units, int64_t UnitSize::*field) {
  return std::accumulate(units.begin(), units.end(), int64_t{0},
                         [=](int64_t sum, const UnitSize& unit) { return sum + unit.*field; });
}

int64_t Largest(const std::vector<UnitSize>& units, int64_t UnitSize::*field) {
  return std::accumulate(
      units.begin(), units.end(), int64_t{0},
      [=](int64_t most, const UnitSize& unit) { return std::max(most, unit.*field); });
}

// A pair of neighbours in the order of use are whole at once, one used and one gathered ahead; with
// a tied embedding, that, the head and the last block.
int64_t MostGatheredBytes(const MemoryQuestion& question) {
  const auto bytes = [&](size_t unit) {
    return (question.units[unit].trainable + question.units[unit].frozen) * question.compute_bytes;
  };
  const size_t head = question.units.size() - 1;
  int64_t most = 0;
  for (size_t unit = 0; unit < head; ++unit) most = std::max(most, bytes(unit) + bytes(unit + 1));
  if (question.tied_embedding && head >= 2) {
    most = std::max(most, bytes(0) + bytes(head) + bytes(head - 1));
  }
  return most;
}

// Whole buffers that gradients of cells are added in (engine/tree_accumulator.h). They are kept
// from step to step, one pool for the blocks, one for the embedding and one for the head.
int64_t TreeBytes(const MemoryQuestion& question, Sharding sharding) {
  const int own_shards = question.logical_shards / question.world_size;
  // Of a unit while its last cell is added: the open subtrees, the shard's sum, the cell.
  const int64_t open = absl::bit_width(static_cast<uint32_t>(own_shards)) - 1;
  const int64_t under_way = open + (question.shards_have_cells ? 1 : 0) + 1;
  // What a unit holds when others are under way: what other passes will add to, or its root.
  const int64_t waiting = !question.all_together             ? std::max<int64_t>(under_way - 1, 1)
                          : sharding >= Sharding::kGradients ? 0
                                                             : 1;
  int64_t elements = 0, largest_block = 0;
  for (size_t unit = 1; unit + 1 < question.units.size(); ++unit) {
    elements += waiting * question.units[unit].trainable;
    largest_block = std::max(largest_block, question.units[unit].trainable);
  }
  elements += (under_way - waiting) * largest_block;
  // A tied head writes its part of the embedding's gradient first, so that each cell holds one.
  elements +=
      std::max(question.cells_together + waiting, under_way) * question.units.front().trainable;
  elements += under_way * question.units.back().trainable;
  return elements * kMasterBytes;
}

std::string Gibibytes(int64_t bytes) {
  return absl::StrFormat("%.2f GiB", static_cast<double>(bytes) / (int64_t{1} << 30));
}

std::string Need(const ShardingChoice& choice) {
  return absl::StrCat(ShardingName(choice.sharding), " needs ", Gibibytes(choice.plan.total()));
}

std::string OfThese(int64_t available_bytes, bool fits) {
  return absl::StrCat(" a slot; ", Gibibytes(available_bytes),
                      fits ? " are there" : " are there: none fits");
}

}  // namespace

int64_t SavedBytesPerToken(const ModelConfig& model, int64_t low_rank, int compute_bytes) {
  const int64_t query = model.heads * model.head_dim, key = model.kv_heads * model.head_dim;
  const int64_t normed = model.query_key_norm ? 1 : 0;
  // Inputs of both norms; q and attention's output; k and v; gate and up.
  const int64_t elements = 2 * model.hidden_size + (2 + normed) * query + (2 + normed) * key +
                           2 * model.intermediate_size + low_rank;
  // Inverse rms of each norm, and attention's log-sum-exp of each head, in fp32.
  const int64_t statistics = 2 + model.heads + normed * (model.heads + model.kv_heads);
  return elements * compute_bytes + statistics * kMasterBytes;
}

int64_t CellBytesPerToken(const ModelConfig& model, int compute_bytes) {
  constexpr int64_t kIds = 5;  // token, target, position, row and place
  return model.hidden_size * compute_bytes + model.head_dim * 4 + kIds * 8;
}

int64_t WorkingBytes(const ModelConfig& model, int64_t cell_tokens, int compute_bytes,
                     bool casts_weights) {
  const int64_t chunk_tokens = std::max<int64_t>(1, kLogitChunkBytes / (4 * model.vocab_size));
  const int64_t head = std::min(cell_tokens, chunk_tokens) * model.vocab_size +
                       3 * cell_tokens * model.hidden_size +
                       (casts_weights ? model.vocab_size * model.hidden_size : 0);
  // Gradients of gate, up and their product; of what comes in, goes out and is normed between.
  const int64_t block = cell_tokens * (3 * model.intermediate_size + 4 * model.hidden_size) +
                        (casts_weights ? model.intermediate_size * model.hidden_size : 0);
  return std::max(head, block) * compute_bytes;
}

absl::StatusOr<MemoryPlan> PlanMemory(const MemoryQuestion& question, Sharding asked) {
  if (question.units.size() < 2 || question.world_size < 1 ||
      question.logical_shards % question.world_size != 0) {
    return absl::InvalidArgumentError(absl::StrCat("no memory plan for ", question.units.size(),
                                                   " units, ", question.world_size, " ranks and ",
                                                   question.logical_shards, " logical shards"));
  }
  const Sharding sharding = EffectiveSharding(asked, question.world_size);
  const int64_t trainable = SumOf(question.units, &UnitSize::trainable);
  const int64_t frozen = SumOf(question.units, &UnitSize::frozen);
  const int64_t owners = sharding == Sharding::kNone ? 1 : question.world_size;
  const int64_t own = trainable / owners;
  const int64_t whole_bytes = sharding == Sharding::kNone ? kMasterBytes : question.compute_bytes;

  MemoryPlan plan;
  if (sharding == Sharding::kFull) {
    plan.weights = own * kMasterBytes + frozen / owners * question.compute_bytes;
    plan.gathered = MostGatheredBytes(question);
  } else {
    const int64_t masters_apart = whole_bytes == kMasterBytes ? 0 : own * kMasterBytes;
    plan.weights = trainable * whole_bytes + masters_apart + frozen * question.compute_bytes;
  }
  plan.moments = 2 * own * kMasterBytes;
  plan.gradients = TreeBytes(question, sharding);
  if (sharding >= Sharding::kGradients) plan.gradients += own * kMasterBytes;
  if (question.world_size > 1) {
    const int64_t trainable_bytes = Largest(question.units, &UnitSize::trainable) * kMasterBytes;
    plan.exchange = trainable_bytes;
    if (question.device_is_host) {
      // Gloo gathers from a buffer with a copy for each rank.
      const int64_t frozen_bytes =
          sharding == Sharding::kFull
              ? Largest(question.units, &UnitSize::frozen) * question.compute_bytes
              : 0;
      plan.exchange += std::max(trainable_bytes, frozen_bytes);
    }
  }
  if (question.checkpoints && question.device_is_host) {
    plan.snapshot = 3 * trainable / question.world_size * kMasterBytes;
  }
  plan.activations = question.tokens_together * question.saved_bytes_per_token;
  plan.working = question.working_bytes;
  return plan;
}

absl::StatusOr<ShardingChoice> JudgeSharding(const MemoryQuestion& question, Sharding sharding,
                                             int64_t available_bytes) {
  ShardingChoice choice;
  ANNEAL_ASSIGN_OR_RETURN(choice.plan, PlanMemory(question, sharding));
  choice.sharding = sharding;
  choice.fits = choice.plan.total() <= available_bytes;
  choice.why = absl::StrCat(Need(choice), OfThese(available_bytes, choice.fits));
  return choice;
}

absl::StatusOr<ShardingChoice> ChooseSharding(const MemoryQuestion& question,
                                              int64_t available_bytes) {
  ShardingChoice choice;
  std::string needs;
  for (Sharding sharding :
       {Sharding::kNone, Sharding::kOptimizer, Sharding::kGradients, Sharding::kFull}) {
    ANNEAL_ASSIGN_OR_RETURN(choice, JudgeSharding(question, sharding, available_bytes));
    absl::StrAppend(&needs, needs.empty() ? "" : ", ", Need(choice));
    if (choice.fits || question.world_size == 1) break;
  }
  choice.why = absl::StrCat(needs, OfThese(available_bytes, choice.fits));
  return choice;
}

}  // namespace anneal
