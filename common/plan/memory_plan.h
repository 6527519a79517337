#pragma once
// How much memory a rank needs, and which sharding makes it fit.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/format/model_config.h"
#include "common/plan/sharding.h"

namespace anneal {

// A unit as the flat layout has it (worker/trainer/shard/flat_layout.h): the embedding first, then
// the blocks, the head last. In elements, padding included.
struct UnitSize {
  int64_t trainable = 0;
  int64_t frozen = 0;
};

// Kept of a token from a block's forward to its backward (worker/trainer/model/block.h), with
// `low_rank` the ranks of its adapters added up.
int64_t SavedBytesPerToken(const ModelConfig& model, int64_t low_rank, int compute_bytes);
// Kept of a token besides, for the length of a pass: the output of the last block or its gradient;
// angles of the rotation, token ids and places.
int64_t CellBytesPerToken(const ModelConfig& model, int compute_bytes);
// What the hungriest operation takes and gives back, for a cell of so many tokens: the backward of
// a feed-forward part, or the head with its logits, `casts_weights`: with its weight in the type of
// the arithmetic too.
int64_t WorkingBytes(const ModelConfig& model, int64_t cell_tokens, int compute_bytes,
                     bool casts_weights);
// Logits are computed for so many tokens at once that they take about this much in fp32.
inline constexpr int64_t kLogitChunkBytes = 32 << 20;

// What decides the memory of a job's ranks. All are alike, so it is that of the one with the most
// tokens in a step.
struct MemoryQuestion {
  std::vector<UnitSize> units;
  bool tied_embedding = false;  // the head computes with the embedding
  int compute_bytes = 4;        // of a number in forward and backward
  int logical_shards = 1;
  int world_size = 1;
  // Of the cells that pass through the blocks together.
  int64_t tokens_together = 0;
  int64_t cells_together = 1;
  bool all_together = true;           // whether these are all that a rank has in a step
  bool shards_have_cells = false;     // whether any logical shard has more than one
  int64_t saved_bytes_per_token = 0;  // kept from forward to backward, over all blocks with one
  int64_t working_bytes = 0;          // of the block or the head that needs most while it runs
  bool checkpoints = true;
  bool device_is_host = true;  // else snapshots lie elsewhere, and exchanges are made in place
};

// Peak bytes of tensors on a rank's device, from the second step on. What is kept from step to step
// and what a step needs at its fullest are added, as buffers are kept for the next step.
struct MemoryPlan {
  int64_t weights = 0;   // whole or in part, frozen ones too, and masters
  int64_t gathered = 0;  // units that are whole for their use: FULL
  int64_t moments = 0;
  int64_t gradients = 0;    // sums of cells, and what is kept of the sum over ranks
  int64_t exchange = 0;     // receive buffers
  int64_t snapshot = 0;     // of the checkpoint that is written
  int64_t activations = 0;  // saved for the backward
  int64_t working = 0;

  int64_t total() const {
    return weights + gathered + moments + gradients + exchange + snapshot + activations + working;
  }
};

// Pure. INVALID_ARGUMENT for a question without sense: fewer than two units, or ranks that do not
// divide the shards.
absl::StatusOr<MemoryPlan> PlanMemory(const MemoryQuestion& question, Sharding sharding);

struct ShardingChoice {
  Sharding sharding = Sharding::kNone;
  MemoryPlan plan;
  bool fits = false;
  std::string why;  // for people: what each mode would need, and what there is
};
// The first mode, in the order of Sharding, whose plan is at most `available_bytes`; FULL if none
// is, which does not fit then either.
absl::StatusOr<ShardingChoice> ChooseSharding(const MemoryQuestion& question,
                                              int64_t available_bytes);
// The same of one mode, whether it fits or not.
absl::StatusOr<ShardingChoice> JudgeSharding(const MemoryQuestion& question, Sharding sharding,
                                             int64_t available_bytes);

}  // namespace anneal
