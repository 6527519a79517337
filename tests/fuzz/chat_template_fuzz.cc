// Any chat template with any conversation: compiled, rendered and traced within its limits, or
// refused. The input is the template, a NUL byte, and the messages as JSON.

#include "absl/strings/string_view.h"
#include "common/base/status.h"
#include "common/text/chat_template.h"

namespace anneal {
namespace {

void CheckAttribution(const Attribution& attribution, const Json& messages,
                      absl::string_view text) {
  size_t end = 0;
  for (const AttributedRange& part : attribution.ranges) {
    ANNEAL_CHECK(part.range.begin >= end && part.range.begin < part.range.end);
    ANNEAL_CHECK(part.range.end <= text.size());
    ANNEAL_CHECK(part.message >= 0 && static_cast<size_t>(part.message) < messages.size());
    ANNEAL_CHECK(part.field >= 0 && static_cast<size_t>(part.field) < attribution.fields.size());
    end = part.range.end;
  }
}

void Run(absl::string_view source, const Json& messages) {
  const ChatTemplateLimits limits = {.fuel = 20'000, .output_bytes = 1u << 20};
  const auto chat_template =
      ChatTemplate::Compile(source, {{"eos_token", "</s>"}}, absl::UnixEpoch(), limits);
  if (!chat_template.ok()) return;
  const auto rendered = (*chat_template)->Render(messages, nullptr, false);
  if (!rendered.ok()) return;
  ANNEAL_CHECK(rendered->text.size() <= limits.output_bytes);
  for (const TextRange& span : rendered->generation_spans) {
    ANNEAL_CHECK(span.begin <= span.end && span.end <= rendered->text.size());
  }
  const auto attribution = (*chat_template)->Attribute(messages, nullptr, rendered->text);
  if (attribution.ok()) CheckAttribution(*attribution, messages, rendered->text);
}

}  // namespace
}  // namespace anneal

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t cut = input.find('\0');
  if (cut == input.npos) return 0;
  const auto messages = anneal::ParseJson(input.substr(cut + 1));
  if (messages.ok() && messages->is_array()) anneal::Run(input.substr(0, cut), *messages);
  return 0;
}
