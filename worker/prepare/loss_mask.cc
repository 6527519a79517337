#include "worker/prepare/loss_mask.h"

#include <algorithm>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace anneal::prepare {
namespace {

constexpr absl::string_view kFirstCallName = "tool_calls[0].function.name";

// Parts of a message that stand in its head, not in its turn.
bool StandsInHead(absl::string_view field) { return field == "name"; }

// First special token that begins at or after `begin` and before `end`; its end, or npos.
size_t EndOfTurn(const EncodedChat& chat, size_t begin, size_t end) {
  const std::vector<TextRange>& ranges = chat.encoding.ranges;
  auto token = std::lower_bound(
      ranges.begin(), ranges.end(), begin,
      [](const TextRange& range, size_t position) { return range.begin < position; });
  for (; token != ranges.end() && token->begin < end; ++token) {
    const size_t index = token - ranges.begin();
    if (chat.encoding.special[index] || chat.encoding.ids[index] == chat.eos_token_id) {
      return token->end;
    }
  }
  return absl::string_view::npos;
}

// Where the turn begins whose first part this is, with only the template's text from `gap` up to
// there.
size_t TurnBegin(const EncodedChat& chat, size_t gap, const AttributedRange& part) {
  const size_t first = part.range.begin;
  const absl::string_view before = absl::string_view(chat.rendered.text).substr(gap, first - gap);
  const std::string& generation_prompt = chat.frame.generation_prompt;
  if (!generation_prompt.empty()) {
    const size_t prompt = before.rfind(generation_prompt);
    if (prompt != before.npos) return gap + prompt + generation_prompt.size();
  }
  const bool calls = chat.attribution.fields[part.field] == kFirstCallName;
  const std::string& lead = calls ? chat.frame.call_lead : chat.frame.lead;
  return absl::EndsWith(before, lead) ? first - lead.size() : first;
}

// The turns as the attribution alone shows them.
std::vector<TurnSpan> TracedTurns(const EncodedChat& chat) {
  std::vector<TurnSpan> turns;
  const absl::string_view text = chat.rendered.text;
  const std::vector<AttributedRange>& parts = chat.attribution.ranges;
  bool in_turn = false;  // whether the part before belongs to turns.back()
  for (size_t i = 0; i < parts.size(); ++i) {
    const AttributedRange& part = parts[i];
    if (StandsInHead(chat.attribution.fields[part.field])) {
      in_turn = false;
      continue;
    }
    if (!in_turn || turns.back().message != part.message) {
      const size_t gap = i == 0 ? 0 : parts[i - 1].range.end;
      turns.push_back({.message = part.message});
      turns.back().range.begin = TurnBegin(chat, gap, part);
      in_turn = true;
    }
    const size_t next = i + 1 < parts.size() ? parts[i + 1].range.begin : text.size();
    const size_t end_of_turn = EndOfTurn(chat, part.range.end, next);
    turns.back().ends_with_token = end_of_turn != text.npos;
    turns.back().range.end = turns.back().ends_with_token ? end_of_turn : part.range.end;
  }
  return turns;
}

// The template's own marks, each with the message whose text it holds. A mark without text of a
// message is nobody's.
std::vector<TurnSpan> MarkedTurns(const EncodedChat& chat) {
  std::vector<TurnSpan> turns;
  for (const TextRange& span : chat.rendered.generation_spans) {
    const auto& parts = chat.attribution.ranges;
    const auto inside = std::find_if(parts.begin(), parts.end(), [&](const AttributedRange& part) {
      return part.range.begin < span.end && part.range.end > span.begin;
    });
    // The marks say what counts, so whether a special token ends them is the template's business.
    if (inside != parts.end()) {
      turns.push_back({.message = inside->message, .range = span, .ends_with_token = true});
    }
  }
  return turns;
}

}  // namespace

absl::StatusOr<TrainOn> ParseTrainOn(absl::string_view name) {
  if (name == "ASSISTANT") return TrainOn::kAssistant;
  if (name == "LAST_TURN") return TrainOn::kLastTurn;
  if (name == "ALL") return TrainOn::kAll;
  return absl::InvalidArgumentError(
      absl::StrCat("train_on is \"", name, "\", not ASSISTANT, LAST_TURN or ALL"));
}

std::vector<bool> SupervisedMessages(absl::Span<const MessageInfo> messages, TrainOn train_on) {
  std::vector<bool> supervised(messages.size(), train_on == TrainOn::kAll);
  bool last_turn = true;
  for (size_t i = messages.size(); i-- > 0;) {
    if (messages[i].role == "assistant") {
      if (train_on == TrainOn::kAssistant || last_turn) supervised[i] = true;
      last_turn = false;
    }
    if (messages[i].weight) supervised[i] = *messages[i].weight;
  }
  return supervised;
}

AssistantFrame FindAssistantFrame(const ChatTemplate& chat_template) {
  // A word that no template writes by itself, so that it marks where the message begins.
  constexpr char kAnswer[] = "xylophone";
  const Json question = {{"role", "user"}, {"content", "x"}};
  const auto asked = chat_template.Render(Json::array({question}), nullptr, false);
  const auto prompted = chat_template.Render(Json::array({question}), nullptr, true);
  if (!asked.ok() || !prompted.ok() || !absl::StartsWith(prompted->text, asked->text)) return {};
  // What stands between the prompt and the answer; nothing if the template refuses the answer.
  const auto text_before = [&](const Json& answer) -> std::optional<std::string> {
    const auto answered = chat_template.Render(Json::array({question, answer}), nullptr, false);
    if (!answered.ok() || !absl::StartsWith(answered->text, prompted->text)) return std::nullopt;
    const size_t begin = prompted->text.size(), at = answered->text.find(kAnswer, begin);
    if (at == std::string::npos) return std::nullopt;
    return answered->text.substr(begin, at - begin);
  };
  AssistantFrame frame = {.generation_prompt = prompted->text.substr(asked->text.size())};
  const auto before_text = text_before({{"role", "assistant"}, {"content", kAnswer}});
  if (!before_text) return frame;
  const bool has_heading = !absl::StripAsciiWhitespace(*before_text).empty();
  if (!has_heading) frame.lead = *before_text;
  // Templates want the arguments as an object, or as its text.
  for (const Json& arguments : {Json::object(), Json("{}")}) {
    const Json call = {{"id", "call00001"},
                       {"type", "function"},
                       {"function", {{"name", kAnswer}, {"arguments", arguments}}}};
    const auto before_call =
        text_before({{"role", "assistant"}, {"content", ""}, {"tool_calls", Json::array({call})}});
    if (!before_call) continue;
    absl::string_view lead = *before_call;
    if (!has_heading || absl::ConsumePrefix(&lead, *before_text))
      frame.call_lead = std::string(lead);
    break;
  }
  return frame;
}

std::vector<TurnSpan> FindTurns(const EncodedChat& chat) {
  std::vector<TurnSpan> turns = TracedTurns(chat);
  const std::vector<TurnSpan> marked = MarkedTurns(chat);
  const auto is_marked = [&](const TurnSpan& turn) {
    return std::any_of(marked.begin(), marked.end(),
                       [&](const TurnSpan& mark) { return mark.message == turn.message; });
  };
  turns.erase(std::remove_if(turns.begin(), turns.end(), is_marked), turns.end());
  turns.insert(turns.end(), marked.begin(), marked.end());
  std::sort(turns.begin(), turns.end(),
            [](const TurnSpan& a, const TurnSpan& b) { return a.range.begin < b.range.begin; });
  return turns;
}

std::vector<uint8_t> WeightsOfSpans(const Encoding& encoding, absl::Span<const TextRange> spans) {
  std::vector<uint8_t> weights(encoding.size(), 0);
  size_t span = 0;
  for (size_t i = 0; i < encoding.size(); ++i) {
    const TextRange& token = encoding.ranges[i];
    if (token.begin == token.end) continue;
    while (span < spans.size() && spans[span].end <= token.begin) ++span;
    if (span == spans.size()) break;
    if (spans[span].begin < token.end) weights[i] = 1;
  }
  return weights;
}

}  // namespace anneal::prepare
