#pragma once
// What turns a model's conversations into token ids: tokenizer, chat template and special tokens of
// a Hugging Face directory.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/format/json.h"
#include "common/text/chat_template.h"
#include "common/text/tokenizer.h"

namespace anneal {

// Immutable, so thread-safe.
struct TextModel {
  std::unique_ptr<Tokenizer> tokenizer;
  // Null if the model has none.
  std::unique_ptr<ChatTemplate> chat_template;
  // Name to text: {"bos_token": "<s>", ...}, as transformers' special_tokens_map.
  Json special_tokens;
  // Empty if the model names none.
  std::string eos_token;
  int32_t eos_token_id = -1;
  // SHA-256 over all of the above and, if the template asks for the time, `template_time`: equal
  // fingerprints encode equally.
  std::string fingerprint;
};

// Reads tokenizer.json, tokenizer_config.json, special_tokens_map.json and chat_template.jinja
// (which wins over the config's chat_template; of named templates "default" is taken). Only
// tokenizer.json must be there. Errors name file and field; NOT_FOUND if `model_dir` has no
// tokenizer.json. `template_time` is the clock templates see.
absl::StatusOr<TextModel> LoadTextModel(const std::string& model_dir, absl::Time template_time);

}  // namespace anneal
