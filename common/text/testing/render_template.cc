// render_template: renders chat templates for tests that compare with transformers. Reads one JSON
// object a line: template, chats (a list of {messages, tools}), generation_prompt, and `now` in
// Unix seconds. Writes one line each: {"error"} if the template does not compile, or {"chats"},
// each
// {"error"} or {"text", "spans", "parts"}: generation spans, and which text came from which field
// as [message, field, text], or null if that cannot be told.

#include <iostream>
#include <string>

#include "common/text/chat_template.h"

namespace anneal {
namespace {

Json PartsOf(const ChatTemplate& chat_template, const Json& chat, const std::string& text) {
  const absl::StatusOr<Attribution> attribution =
      chat_template.Attribute(chat["messages"], chat["tools"], text);
  if (!attribution.ok()) return nullptr;
  Json parts = Json::array();
  for (const AttributedRange& part : attribution->ranges) {
    parts.push_back({part.message, attribution->fields[part.field],
                     text.substr(part.range.begin, part.range.end - part.range.begin)});
  }
  return parts;
}

Json Render(const ChatTemplate& chat_template, const Json& chat, bool generation_prompt) {
  const absl::StatusOr<RenderedChat> rendered =
      chat_template.Render(chat["messages"], chat["tools"], generation_prompt);
  if (!rendered.ok()) return {{"error", std::string(rendered.status().message())}};
  Json spans = Json::array();
  for (const TextRange& span : rendered->generation_spans) {
    spans.push_back(Json::array({span.begin, span.end}));
  }
  Json result = {{"text", rendered->text}, {"spans", std::move(spans)}};
  if (!generation_prompt) result["parts"] = PartsOf(chat_template, chat, rendered->text);
  return result;
}

Json Answer(const Json& request) {
  const Json globals = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  const auto chat_template =
      ChatTemplate::Compile(request["template"].get<std::string>(), globals,
                            absl::FromUnixSeconds(request.value("now", int64_t{0})));
  if (!chat_template.ok()) return {{"error", std::string(chat_template.status().message())}};
  Json chats = Json::array();
  for (const Json& chat : request["chats"]) {
    chats.push_back(Render(**chat_template, chat, request.value("generation_prompt", false)));
  }
  return {{"chats", std::move(chats)}};
}

}  // namespace
}  // namespace anneal

int main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    const anneal::Json answer = anneal::Answer(anneal::Json::parse(line));
    std::cout << anneal::DumpJson(answer) << "\n";
  }
  return 0;
}
