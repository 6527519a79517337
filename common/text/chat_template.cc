#include "common/text/chat_template.h"

#include "common/base/status.h"
#include "common/text/rust_call.h"

namespace anneal {

using text_internal::Borrow;
using text_internal::Call;
using text_internal::Take;

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Compile(
    absl::string_view source, const Json& globals, absl::Time now,
    const ChatTemplateLimits& limits) {
  AnnealChatTemplate* handle = nullptr;
  const std::string globals_text = DumpJson(globals);
  ANNEAL_RETURN_IF_ERROR(Call([&](AnnealBytes* error) {
    return anneal_text_template_compile(Borrow(source), Borrow(globals_text),
                                        absl::ToUnixSeconds(now), limits.fuel, limits.output_bytes,
                                        &handle, error);
  }));
  return std::unique_ptr<ChatTemplate>(new ChatTemplate(handle));
}

ChatTemplate::~ChatTemplate() { anneal_text_template_free(handle_); }

bool ChatTemplate::has_generation_marks() const {
  return anneal_text_template_has_generation_marks(handle_);
}

absl::StatusOr<RenderedChat> ChatTemplate::Render(const Json& messages, const Json& tools,
                                                  bool add_generation_prompt) const {
  const std::string messages_text = DumpJson(messages), tools_text = DumpJson(tools);
  AnnealRendered raw = {};
  ANNEAL_RETURN_IF_ERROR(Call([&](AnnealBytes* error) {
    return anneal_text_render(handle_, Borrow(messages_text), Borrow(tools_text),
                              add_generation_prompt, &raw, error);
  }));
  RenderedChat rendered;
  rendered.text.assign(raw.text.data, raw.text.size);
  for (size_t i = 0; i < raw.generation_spans.size; ++i) {
    rendered.generation_spans.push_back(
        {raw.generation_spans.data[i].begin, raw.generation_spans.data[i].end});
  }
  anneal_text_rendered_free(&raw);
  return rendered;
}

absl::StatusOr<Attribution> ChatTemplate::Attribute(const Json& messages, const Json& tools,
                                                    absl::string_view rendered) const {
  const std::string messages_text = DumpJson(messages), tools_text = DumpJson(tools);
  AnnealAttribution raw = {};
  ANNEAL_RETURN_IF_ERROR(Call([&](AnnealBytes* error) {
    return anneal_text_attribute(handle_, Borrow(messages_text), Borrow(tools_text),
                                 Borrow(rendered), &raw, error);
  }));
  Attribution attribution;
  for (size_t i = 0; i < raw.ranges.size; ++i) {
    const auto& range = raw.ranges.data[i];
    attribution.ranges.push_back(
        {{range.begin, range.end}, static_cast<int>(range.message), static_cast<int>(range.field)});
  }
  for (size_t i = 0; i < raw.fields.size; ++i) {
    attribution.fields.emplace_back(raw.fields.data[i].data, raw.fields.data[i].size);
  }
  anneal_text_attribution_free(&raw);
  return attribution;
}

}  // namespace anneal
