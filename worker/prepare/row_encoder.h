#pragma once
// A Row to token ids and loss weights, for one model and one set of options.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/text_model.h"
#include "worker/prepare/loss_mask.h"
#include "worker/prepare/row.h"

namespace anneal::prepare {

enum class OverLength { kReject, kTruncate, kDrop };
// INVALID_ARGUMENT unless it is REJECT, TRUNCATE or DROP.
absl::StatusOr<OverLength> ParseOverLength(absl::string_view name);

struct EncodeOptions {
  int64_t max_length = 2048;
  OverLength over_length = OverLength::kReject;
  TrainOn train_on = TrainOn::kAssistant;
  int64_t vocab_size = 0;  // of the model: rows of its embedding
};

struct EncodedRow {
  enum class Fate { kKept, kTruncated, kDropped, kRefused };
  Fate fate = Fate::kKept;
  std::vector<int32_t> token_ids;    // empty unless kept or truncated
  std::vector<uint8_t> loss_weight;  // as many
  // Why it is refused, or what its author may want to know of a row that is kept.
  std::vector<Issue> issues;
};

// Conversations are rendered by the model's chat template and encoded without further special
// tokens, as transformers' apply_chat_template does. Prompt and completion are encoded together,
// with the special tokens the tokenizer puts around any text, and the completion with the
// end-of-text token behind it counts; text rows likewise, and all of it counts. This is how TRL's
// SFTTrainer prepares them. Thread-safe.
class RowEncoder {
 public:
  // `model` outlives the encoder.
  RowEncoder(const TextModel& model, const EncodeOptions& options);

  EncodedRow Encode(const Row& row) const;

 private:
  class Work;

  const TextModel& model_;
  const EncodeOptions options_;
  const AssistantFrame frame_;
};

}  // namespace anneal::prepare
