#pragma once
// Text to token ids and back, exactly as Hugging Face's tokenizers: the C++ face of the Rust
// library in common/text/rust.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

struct AnnealTokenizer;  // common/text/rust/anneal_text.h

namespace anneal {

// The bytes [begin, end) of a text.
struct TextRange {
  size_t begin = 0;
  size_t end = 0;
};
inline bool operator==(const TextRange& a, const TextRange& b) {
  return a.begin == b.begin && a.end == b.end;
}

// What encoding gives, one entry a token in each vector.
struct Encoding {
  std::vector<int32_t> ids;
  // The bytes a token covers, whitespace included; empty and at 0 for tokens that only
  // add_special_tokens adds. Where several tokens share one character, each covers all of it.
  std::vector<TextRange> ranges;
  // 1 for tokens that the tokenizer declares special, whether added or found in the text.
  std::vector<uint8_t> special;

  size_t size() const { return ids.size(); }
};

// A tokenizer.json. Immutable, so thread-safe. Truncation and padding that the file may ask for are
// off.
class Tokenizer {
 public:
  // `added_tokens_json` is a list in the form of tokenizer.json's "added_tokens", without ids;
  // those the file lacks are added, as transformers does with the special tokens of
  // tokenizer_config.json. INVALID_ARGUMENT if the file is no tokenizer.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(
      absl::string_view tokenizer_json, absl::string_view added_tokens_json = "[]");
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // INVALID_ARGUMENT if `text` is not UTF-8.
  absl::StatusOr<Encoding> Encode(absl::string_view text, bool add_special_tokens) const;
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids, bool skip_special_tokens) const;

  // One more than the largest id.
  int64_t vocab_size() const;
  std::optional<int32_t> TokenToId(absl::string_view token) const;
  std::optional<std::string> IdToToken(int32_t id) const;

 private:
  explicit Tokenizer(AnnealTokenizer* handle) : handle_(handle) {}

  AnnealTokenizer* const handle_;
};

}  // namespace anneal
