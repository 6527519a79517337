#pragma once
// A model's Jinja chat template, compiled once and rendered as transformers'
// apply_chat_template(tokenize=False) does, and the tracing of rendered text back to the messages
// it came from: the C++ face of the Rust library in common/text/rust.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/format/json.h"
#include "common/text/tokenizer.h"

struct AnnealChatTemplate;  // common/text/rust/anneal_text.h

namespace anneal {

struct RenderedChat {
  std::string text;
  // What the template's generation blocks enclose, in order; empty if it has none.
  std::vector<TextRange> generation_spans;
};

// Bytes of the rendered text that came from a message.
struct AttributedRange {
  TextRange range;
  int message = 0;
  int field = 0;  // index into Attribution::fields
};

struct Attribution {
  // In order and disjoint. What lies between is the template's own text.
  std::vector<AttributedRange> ranges;
  // Paths within a message: "content", "tool_calls[0].function.name".
  std::vector<std::string> fields;
};

// What one rendering may use up; a template comes with a model, from anywhere. The template itself
// may have 256 KiB, an expression in it 8 KiB besides its literals, and a value that is written may
// be nested 200 levels deep.
struct ChatTemplateLimits {
  // Steps of the template, and one for each 64 bytes it produces, intermediate text included:
  // bounds time, memory, and how deep values can nest. Conversations of three million characters
  // fit.
  uint64_t fuel = 2'000'000;
  size_t output_bytes = 64u << 20;
};

// Immutable, so thread-safe.
class ChatTemplate {
 public:
  // `globals` is an object of further names the template sees: bos_token and the like. `now` is
  // what strftime_now() shows, in UTC. INVALID_ARGUMENT with the template's line if it does not
  // compile.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Compile(
      absl::string_view source, const Json& globals, absl::Time now,
      const ChatTemplateLimits& limits = {});
  ~ChatTemplate();
  ChatTemplate(const ChatTemplate&) = delete;
  ChatTemplate& operator=(const ChatTemplate&) = delete;

  // Whether it marks what the assistant says with {% generation %}.
  bool has_generation_marks() const;

  // `messages` is a list of objects; `tools` a list of JSON schemas, or null. As in transformers, a
  // message's null values count as absent. INVALID_ARGUMENT carries the template's own message
  // (raise_exception) or what went wrong.
  absl::StatusOr<RenderedChat> Render(const Json& messages, const Json& tools,
                                      bool add_generation_prompt) const;

  // Where each part of `rendered`, the result of Render without generation prompt, came from. Works
  // on any template, by rendering again with every character of the messages replaced by one that
  // names its place, and is verified against `rendered`: never a guess. INVALID_ARGUMENT if the
  // template defeats it.
  absl::StatusOr<Attribution> Attribute(const Json& messages, const Json& tools,
                                        absl::string_view rendered) const;

 private:
  explicit ChatTemplate(AnnealChatTemplate* handle) : handle_(handle) {}

  AnnealChatTemplate* const handle_;
};

}  // namespace anneal
