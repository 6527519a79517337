#pragma once
// Which tokens end a model's turn.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/format/model_config.h"

namespace anneal::trainer {

// What generation_config.json lists, what config.json lists, and the tokenizer's eos token, which
// ends a turn of a chat; each once, in this order. `config` is that of `model_dir`.
absl::StatusOr<std::vector<int64_t>> EndOfTurnTokens(const std::string& model_dir,
                                                     const ModelConfig& config);

}  // namespace anneal::trainer
