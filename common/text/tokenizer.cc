#include "common/text/tokenizer.h"

#include "common/base/status.h"
#include "common/text/rust_call.h"

namespace anneal {

using text_internal::Borrow;
using text_internal::Call;
using text_internal::Take;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(
    absl::string_view tokenizer_json, absl::string_view added_tokens_json) {
  AnnealTokenizer* handle = nullptr;
  ANNEAL_RETURN_IF_ERROR(Call([&](AnnealBytes* error) {
    return anneal_text_tokenizer_load(Borrow(tokenizer_json), Borrow(added_tokens_json), &handle,
                                      error);
  }));
  return std::unique_ptr<Tokenizer>(new Tokenizer(handle));
}

Tokenizer::~Tokenizer() { anneal_text_tokenizer_free(handle_); }

absl::StatusOr<Encoding> Tokenizer::Encode(absl::string_view text, bool add_special_tokens) const {
  AnnealEncoding raw = {};
  ANNEAL_RETURN_IF_ERROR(Call([&](AnnealBytes* error) {
    return anneal_text_encode(handle_, Borrow(text), add_special_tokens, &raw, error);
  }));
  Encoding encoding;
  encoding.ids.assign(raw.ids.data, raw.ids.data + raw.ids.size);
  encoding.special.assign(raw.special.data, raw.special.data + raw.special.size);
  encoding.ranges.reserve(raw.ids.size);
  for (size_t i = 0; i < raw.ids.size; ++i) {
    encoding.ranges.push_back({raw.begins.data[i], raw.ends.data[i]});
  }
  anneal_text_encoding_free(&raw);
  return encoding;
}

absl::StatusOr<std::string> Tokenizer::Decode(absl::Span<const int32_t> ids,
                                              bool skip_special_tokens) const {
  const std::vector<uint32_t> raw_ids(ids.begin(), ids.end());
  AnnealBytes text = {};
  ANNEAL_RETURN_IF_ERROR(Call([&](AnnealBytes* error) {
    return anneal_text_decode(handle_, raw_ids.data(), raw_ids.size(), skip_special_tokens, &text,
                              error);
  }));
  return Take(text);
}

int64_t Tokenizer::vocab_size() const {
  return static_cast<int64_t>(anneal_text_vocab_size(handle_));
}

std::optional<int32_t> Tokenizer::TokenToId(absl::string_view token) const {
  const int64_t id = anneal_text_token_to_id(handle_, Borrow(token));
  if (id < 0) return std::nullopt;
  return static_cast<int32_t>(id);
}

std::optional<std::string> Tokenizer::IdToToken(int32_t id) const {
  AnnealBytes token = {};
  if (id < 0 || !anneal_text_id_to_token(handle_, static_cast<uint32_t>(id), &token)) {
    return std::nullopt;
  }
  return Take(token);
}

}  // namespace anneal
