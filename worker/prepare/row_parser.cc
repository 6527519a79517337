#include "worker/prepare/row_parser.h"

#include <array>
#include <initializer_list>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"

namespace anneal::prepare {
namespace {

constexpr JsonLimits kRowLimits = {.max_bytes = kMaxRowBytes, .max_depth = 32};
constexpr size_t kMaxMessages = 10'000;
constexpr std::array<absl::string_view, 5> kRoles = {"system", "developer", "user", "assistant",
                                                     "tool"};
constexpr std::array<absl::string_view, 3> kReasoningKeys = {"reasoning_content", "reasoning",
                                                             "thinking"};
constexpr absl::string_view kAString = "a string";
constexpr char kToolCallHint[] =
    R"({"type": "function", "function": {"name": "...", "arguments": {...}}})";

// Names that other formats use for what we call otherwise.
struct ForeignName {
  absl::string_view name, ours;
};
constexpr ForeignName kForeignKeys[] = {
    {"conversations", "messages"}, {"conversation", "messages"}, {"from", "role"},
    {"value", "content"},          {"instruction", "prompt"},    {"question", "prompt"},
    {"input", "prompt"},           {"output", "completion"},     {"response", "completion"},
    {"answer", "completion"},      {"content", "text"},          {"function_call", "tool_calls"},
};
constexpr ForeignName kForeignRoles[] = {{"human", "user"},
                                         {"gpt", "assistant"},
                                         {"bot", "assistant"},
                                         {"model", "assistant"},
                                         {"function", "tool"}};

template <size_t N>
std::string HintFor(absl::string_view name, const ForeignName (&table)[N]) {
  for (const ForeignName& entry : table) {
    if (absl::EqualsIgnoreCase(name, entry.name)) {
      return absl::StrCat("it is called \"", entry.ours, "\" here");
    }
  }
  return "";
}

// A few characters of foreign text for a message.
std::string Quote(absl::string_view text) {
  constexpr size_t kShown = 60;
  size_t cut = text.size();
  if (cut > kShown) {
    cut = kShown;
    while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) {
      --cut;  // not inside a character
    }
  }
  return absl::StrCat("\"", text.substr(0, cut), cut < text.size() ? "..." : "", "\"");
}

std::string Describe(const Json& value) {
  if (value.is_string()) {
    return absl::StrCat("the string ", Quote(value.get_ref<const std::string&>()));
  }
  if (value.is_array()) return "a list";
  if (value.is_object()) return "an object";
  return DumpJson(value);
}

std::string HintForType(absl::string_view expected, const Json& got) {
  if (expected == kAString && (got.is_number() || got.is_boolean())) return "put it in quotes";
  if (expected == kAString && got.is_array()) {
    return "join the parts into one string; images and audio are not supported";
  }
  return absl::StrCat("write ", expected, " here");
}

template <typename Names>
bool Contains(const Names& names, absl::string_view name) {
  for (absl::string_view candidate : names) {
    if (candidate == name) return true;
  }
  return false;
}

class Parser {
 public:
  explicit Parser(ParsedRow& out) : out_(out), row_(out.row) {}

  void Parse(absl::string_view line);

 private:
  void Add(std::string code, std::string field, std::string message, std::string hint) {
    if (out_.issues.size() >= kMaxIssuesPerRow) return;
    out_.issues.push_back({.severity = "ERROR",
                           .code = std::move(code),
                           .field = std::move(field),
                           .message = std::move(message),
                           .hint = std::move(hint)});
  }
  void AddWrongType(const std::string& field, absl::string_view expected, const Json& got) {
    Add("WRONG_TYPE", field, absl::StrCat("expected ", expected, ", got ", Describe(got)),
        HintForType(expected, got));
  }

  void ParseJsonText(absl::string_view line, Json& out);
  void CheckKeys(const Json& object, const std::string& prefix,
                 std::initializer_list<absl::string_view> known);
  // The string under `key`, which must be there and not be empty.
  void ReadText(const Json& object, const char* key, std::string& out);

  void ParseChat(const Json& row);
  void ParseMessage(Json message, const std::string& field);
  void ParseWeight(Json& message, const std::string& field, MessageInfo& info);
  void ParseContent(const Json& message, const std::string& field, const MessageInfo& info);
  void ParseToolCalls(const Json& calls, const std::string& field);
  void ParseTools(const Json& tools);
  void CheckOptionalString(const Json& message, const std::string& field, absl::string_view key);

  ParsedRow& out_;
  Row& row_;
};

void Parser::ParseJsonText(absl::string_view line, Json& out) {
  if (absl::StartsWith(line, "\xEF\xBB\xBF")) {
    return Add("BYTE_ORDER_MARK", "", "the line begins with a byte order mark",
               "save the file as UTF-8 without BOM");
  }
  if (absl::StrContains(line, '\0')) {
    return Add("NUL_BYTE", "", "the line holds a NUL byte",
               "the file may be UTF-16; save it as UTF-8");
  }
  absl::StatusOr<Json> json = ParseJson(line, kRowLimits);
  if (!json.ok()) {
    // "not JSON: line 1 column 14: ...": the line is the file's to say, the column is the issue's
    // own member.
    absl::string_view why = json.status().message();
    absl::ConsumePrefix(&why, "JSON refused: ");
    int32_t column = 0;
    if (const size_t at = why.find("line 1 column "); at != absl::string_view::npos) {
      const absl::string_view tail = why.substr(at + 14);
      const size_t colon = tail.find(": ");
      if (colon != absl::string_view::npos && absl::SimpleAtoi(tail.substr(0, colon), &column)) {
        why = tail.substr(colon + 2);
      }
    }
    Add("ROW_NOT_JSON", "", absl::StrCat("not a JSON object: ", why),
        absl::StartsWith(line, "[") ? "write one object a line, not a list"
                                    : "each line must be one whole JSON object");
    if (!out_.issues.empty()) out_.issues.back().column = column;
    return;
  }
  out = *std::move(json);
  if (!out.is_object()) {
    Add("ROW_NOT_JSON", "", absl::StrCat("expected a JSON object, got ", Describe(out)),
        out.is_array() ? "write one object a line, not a list"
                       : "each line must be one whole JSON object");
  }
}

void Parser::CheckKeys(const Json& object, const std::string& prefix,
                       std::initializer_list<absl::string_view> known) {
  for (const auto& [key, value] : object.items()) {
    if (Contains(known, key)) continue;
    std::string hint = HintFor(key, kForeignKeys);
    if (hint.empty()) hint = absl::StrCat("known here: ", absl::StrJoin(known, ", "));
    Add("UNKNOWN_FIELD", absl::StrCat(prefix, key.substr(0, 60)),
        absl::StrCat("unknown field ", Quote(key)), std::move(hint));
  }
}

void Parser::ReadText(const Json& object, const char* key, std::string& out) {
  const auto it = object.find(key);
  if (it == object.end()) {
    return Add("MISSING_FIELD", key, "missing", absl::StrCat("add \"", key, "\": \"...\""));
  }
  if (!it->is_string()) return AddWrongType(key, kAString, *it);
  out = it->get<std::string>();
  if (absl::StripAsciiWhitespace(out).empty()) {
    Add("EMPTY_TEXT", key, "empty", "fill it, or remove the row");
  }
}

void Parser::Parse(absl::string_view line) {
  Json json;
  ParseJsonText(line, json);
  if (!out_.issues.empty()) return;
  if (json.contains("messages")) {
    ParseChat(json);
  } else if (json.contains("prompt") || json.contains("completion")) {
    row_.kind = RowKind::kPromptCompletion;
    CheckKeys(json, "", {"prompt", "completion"});
    ReadText(json, "prompt", row_.prompt);
    ReadText(json, "completion", row_.completion);
  } else if (json.contains("text")) {
    row_.kind = RowKind::kText;
    CheckKeys(json, "", {"text"});
    ReadText(json, "text", row_.text);
  } else {
    std::string hint = "write messages, or prompt and completion, or text";
    for (const auto& [key, value] : json.items()) {
      if (const std::string known = HintFor(key, kForeignKeys); !known.empty()) {
        hint = absl::StrCat("\"", key, "\": ", known);
        break;
      }
    }
    Add("UNKNOWN_SHAPE", "", "neither messages nor prompt and completion nor text",
        std::move(hint));
  }
}

void Parser::ParseChat(const Json& row) {
  row_.kind = RowKind::kChat;
  CheckKeys(row, "", {"messages", "tools"});
  const Json& messages = row["messages"];
  row_.messages = Json::array();
  if (!messages.is_array()) return AddWrongType("messages", "a list of messages", messages);
  if (messages.empty()) {
    return Add("EMPTY_MESSAGES", "messages", "no messages", "fill the list, or remove the row");
  }
  if (messages.size() > kMaxMessages) {
    return Add("TOO_MANY_MESSAGES", "messages",
               absl::StrCat(messages.size(), " messages are over the limit of ", kMaxMessages),
               "split the conversation into several rows");
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    ParseMessage(messages[i], absl::StrCat("messages[", i, "]"));
  }
  if (row.contains("tools")) ParseTools(row["tools"]);
}

void Parser::ParseMessage(Json message, const std::string& field) {
  if (!message.is_object()) return AddWrongType(field, "an object with role and content", message);
  CheckKeys(message, field + ".",
            {"role", "content", "weight", "name", "tool_calls", "tool_call_id", "reasoning_content",
             "reasoning", "thinking"});
  MessageInfo info;
  const auto role = message.find("role");
  if (role == message.end()) {
    Add("MISSING_FIELD", field + ".role", "missing",
        absl::StrCat("one of ", absl::StrJoin(kRoles, ", ")));
  } else if (!role->is_string()) {
    AddWrongType(field + ".role", kAString, *role);
  } else {
    info.role = role->get<std::string>();
    if (!Contains(kRoles, info.role)) {
      std::string hint = HintFor(info.role, kForeignRoles);
      if (hint.empty()) hint = absl::StrCat("one of ", absl::StrJoin(kRoles, ", "));
      Add("UNKNOWN_ROLE", field + ".role", absl::StrCat("unknown role ", Quote(info.role)),
          std::move(hint));
    }
  }
  ParseWeight(message, field, info);
  ParseContent(message, field, info);
  for (absl::string_view key : {"name", "tool_call_id"}) CheckOptionalString(message, field, key);
  for (absl::string_view key : kReasoningKeys) CheckOptionalString(message, field, key);
  if (message.contains("tool_calls") && !message["tool_calls"].is_null()) {
    if (info.role != "assistant") {
      Add("MISPLACED_FIELD", field + ".tool_calls",
          absl::StrCat("a ", info.role, " message cannot call tools"),
          "move it to an assistant message");
    } else {
      ParseToolCalls(message["tool_calls"], field + ".tool_calls");
    }
  }
  row_.messages.push_back(std::move(message));
  row_.infos.push_back(std::move(info));
}

// Takes the weight out: the model is not to see it.
void Parser::ParseWeight(Json& message, const std::string& field, MessageInfo& info) {
  const auto it = message.find("weight");
  if (it == message.end()) return;
  if (it->is_number_integer() && (*it == 0 || *it == 1)) {
    info.weight = *it == 1;
  } else {
    AddWrongType(field + ".weight", "0 or 1", *it);
  }
  message.erase(it);
}

void Parser::ParseContent(const Json& message, const std::string& field, const MessageInfo& info) {
  const auto content = message.find("content");
  const bool calls_tools = message.contains("tool_calls") && !message["tool_calls"].is_null();
  if (content == message.end() || content->is_null()) {
    if (!calls_tools) {
      Add("MISSING_FIELD", field + ".content", "missing", "add what was said, as a string");
    }
    return;
  }
  if (!content->is_string()) {
    return AddWrongType(field + ".content", kAString, *content);
  }
  const bool blank = absl::StripAsciiWhitespace(content->get_ref<const std::string&>()).empty();
  if (blank && info.role == "assistant" && !calls_tools && info.weight.value_or(true)) {
    Add("EMPTY_TEXT", field + ".content", "the assistant says nothing",
        "fill it, remove the message, or give it \"weight\": 0");
  }
}

void Parser::CheckOptionalString(const Json& message, const std::string& field,
                                 absl::string_view key) {
  const auto it = message.find(std::string(key));
  if (it == message.end() || it->is_null() || it->is_string()) return;
  AddWrongType(absl::StrCat(field, ".", key), kAString, *it);
}

void Parser::ParseToolCalls(const Json& calls, const std::string& field) {
  if (!calls.is_array()) return AddWrongType(field, "a list", calls);
  if (calls.empty()) return Add("EMPTY_LIST", field, "no tool calls", "leave the field out");
  for (size_t i = 0; i < calls.size(); ++i) {
    const std::string place = absl::StrCat(field, "[", i, "]");
    const Json& call = calls[i];
    if (!call.is_object()) {
      AddWrongType(place, "an object", call);
      continue;
    }
    CheckKeys(call, place + ".", {"id", "type", "function"});
    CheckOptionalString(call, place, "id");
    if (call.contains("type") && call["type"] != "function") {
      AddWrongType(place + ".type", "\"function\"", call["type"]);
    }
    if (!call.contains("function") || !call["function"].is_object()) {
      Add("MISSING_FIELD", place + ".function", "expected an object with name and arguments",
          kToolCallHint);
      continue;
    }
    const Json& function = call["function"];
    CheckKeys(function, place + ".function.", {"name", "arguments"});
    if (!function.contains("name") || !function["name"].is_string() ||
        function["name"].get_ref<const std::string&>().empty()) {
      Add("MISSING_FIELD", place + ".function.name", "expected the name of a function",
          kToolCallHint);
    }
    // Templates differ: some print the arguments as JSON, some take them as text already. Both
    // forms are passed as they are.
    if (!function.contains("arguments") ||
        !(function["arguments"].is_object() || function["arguments"].is_string())) {
      Add("MISSING_FIELD", place + ".function.arguments",
          "expected an object, or its JSON as a string", kToolCallHint);
    }
  }
}

void Parser::ParseTools(const Json& tools) {
  if (tools.is_null()) return;
  if (!tools.is_array()) return AddWrongType("tools", "a list of functions", tools);
  for (size_t i = 0; i < tools.size(); ++i) {
    if (!tools[i].is_object()) AddWrongType(absl::StrCat("tools[", i, "]"), "an object", tools[i]);
  }
  // An empty list means no tools, as transformers' callers mean it.
  if (!tools.empty()) row_.tools = tools;
}

}  // namespace

ParsedRow ParseRow(absl::string_view line) {
  ParsedRow parsed;
  Parser(parsed).Parse(line);
  return parsed;
}

}  // namespace anneal::prepare
