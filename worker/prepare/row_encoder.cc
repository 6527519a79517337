#include "worker/prepare/row_encoder.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"

namespace anneal::prepare {
namespace {

bool ShowsText(const Json& message) {
  const auto content = message.find("content");
  return content != message.end() && content->is_string() &&
         !absl::StripAsciiWhitespace(content->get_ref<const std::string&>()).empty();
}

}  // namespace

absl::StatusOr<OverLength> ParseOverLength(absl::string_view name) {
  if (name == "REJECT") return OverLength::kReject;
  if (name == "TRUNCATE") return OverLength::kTruncate;
  if (name == "DROP") return OverLength::kDrop;
  return absl::InvalidArgumentError(
      absl::StrCat("over_length is \"", name, "\", not REJECT, TRUNCATE or DROP"));
}

// The encoding of one row. The methods return false once the row's fate is settled.
class RowEncoder::Work {
 public:
  Work(const RowEncoder& encoder, const Row& row)
      : model_(encoder.model_), options_(encoder.options_), frame_(encoder.frame_), row_(row) {}

  EncodedRow Run() {
    const bool encoded = row_.kind == RowKind::kChat ? EncodeChat() : EncodePlain();
    if (encoded && CheckIds()) Finish();
    return std::move(out_);
  }

 private:
  bool Refuse(std::string code, std::string field, std::string message, std::string hint) {
    out_.fate = EncodedRow::Fate::kRefused;
    out_.token_ids.clear();
    out_.loss_weight.clear();
    Note("ERROR", std::move(code), std::move(field), std::move(message), std::move(hint));
    return false;
  }
  void Note(std::string severity, std::string code, std::string field, std::string message,
            std::string hint) {
    out_.issues.push_back({.severity = std::move(severity),
                           .code = std::move(code),
                           .field = std::move(field),
                           .message = std::move(message),
                           .hint = std::move(hint)});
  }

  bool EncodePlain();
  bool EncodeChat();
  // Tokenises and applies the length policy to what need not be looked at further.
  bool Tokenise(absl::string_view text, bool add_special_tokens);
  bool MaskChat(const RenderedChat& rendered);
  // The spans of the rendered text that count; nullopt once the row is refused.
  std::optional<std::vector<TextRange>> SpansOfTurns(const RenderedChat& rendered);
  bool CheckIds();
  void Finish();

  const TextModel& model_;
  const EncodeOptions& options_;
  const AssistantFrame& frame_;
  const Row& row_;
  Encoding encoding_;
  EncodedRow out_;
};

bool RowEncoder::Work::Tokenise(absl::string_view text, bool add_special_tokens) {
  absl::StatusOr<Encoding> encoding = model_.tokenizer->Encode(text, add_special_tokens);
  if (!encoding.ok()) {
    return Refuse("NOT_ENCODED", "",
                  absl::StrCat("cannot be tokenised: ", encoding.status().message()),
                  "remove the row, or the characters that the model's tokenizer does not take");
  }
  encoding_ = *std::move(encoding);
  const int64_t length = static_cast<int64_t>(encoding_.size());
  if (length <= options_.max_length) return true;
  switch (options_.over_length) {
    case OverLength::kReject:
      return Refuse("ROW_TOO_LONG", "",
                    absl::StrCat(length, " tokens are over max_length ", options_.max_length),
                    "shorten the row, raise max_length, or set over_length to TRUNCATE or DROP");
    case OverLength::kDrop:
      out_.fate = EncodedRow::Fate::kDropped;
      return false;
    case OverLength::kTruncate:
      out_.fate = EncodedRow::Fate::kTruncated;
      return true;
  }
  return false;
}

bool RowEncoder::Work::EncodePlain() {
  if (model_.eos_token.empty()) {
    return Refuse("NO_END_TOKEN", "", "the model names no eos_token to end the text with",
                  "add eos_token to the model's tokenizer_config.json");
  }
  const bool has_prompt = row_.kind == RowKind::kPromptCompletion;
  std::string text = has_prompt ? row_.prompt + row_.completion : row_.text;
  if (!absl::EndsWith(text, model_.eos_token)) text += model_.eos_token;
  if (!Tokenise(text, /*add_special_tokens=*/true)) return false;
  const bool count_all = !has_prompt || options_.train_on == TrainOn::kAll;
  const TextRange counted = {count_all ? 0 : row_.prompt.size(), text.size()};
  out_.loss_weight = WeightsOfSpans(encoding_, {counted});
  const auto crosses = [&](const TextRange& token) {
    return token.begin < counted.begin && token.end > counted.begin;
  };
  if (std::any_of(encoding_.ranges.begin(), encoding_.ranges.end(), crosses)) {
    Note("WARNING", "TOKEN_ACROSS_PROMPT", "completion",
         "a token holds the prompt's end and the completion's begin",
         "begin the completion with a space, or end the prompt with a line end");
  }
  return true;
}

bool RowEncoder::Work::EncodeChat() {
  if (model_.chat_template == nullptr) {
    return Refuse("NO_CHAT_TEMPLATE", "messages",
                  "the model has no chat template to render messages with",
                  "use an instruction-tuned model, or prompt and completion rows");
  }
  absl::StatusOr<RenderedChat> rendered =
      model_.chat_template->Render(row_.messages, row_.tools, false);
  if (!rendered.ok()) {
    return Refuse(
        "TEMPLATE_FAILED", "messages",
        absl::StrCat("the model's chat template refuses it: ", rendered.status().message()),
        "change the order or the roles of the messages to what the template takes");
  }
  return Tokenise(rendered->text, /*add_special_tokens=*/false) && MaskChat(*rendered);
}

bool RowEncoder::Work::MaskChat(const RenderedChat& rendered) {
  const bool weighted =
      std::any_of(row_.infos.begin(), row_.infos.end(),
                  [](const MessageInfo& info) { return info.weight.has_value(); });
  if (options_.train_on == TrainOn::kAll && !weighted) {
    out_.loss_weight.assign(encoding_.size(), 1);
    return true;
  }
  // Where the template marks what the assistant says and all of it counts, its marks decide.
  if (options_.train_on == TrainOn::kAssistant && !weighted &&
      model_.chat_template->has_generation_marks()) {
    out_.loss_weight = WeightsOfSpans(encoding_, rendered.generation_spans);
    return true;
  }
  const std::optional<std::vector<TextRange>> spans = SpansOfTurns(rendered);
  if (!spans) return false;
  out_.loss_weight = WeightsOfSpans(encoding_, *spans);
  if (options_.train_on == TrainOn::kAll) {
    // The spans are those of the messages that do not count: everything else does, the template's
    // own text included.
    for (uint8_t& weight : out_.loss_weight) weight = 1 - weight;
  }
  return true;
}

std::optional<std::vector<TextRange>> RowEncoder::Work::SpansOfTurns(const RenderedChat& rendered) {
  const absl::StatusOr<Attribution> attribution =
      model_.chat_template->Attribute(row_.messages, row_.tools, rendered.text);
  if (!attribution.ok()) {
    Refuse("NOT_TRACEABLE", "messages",
           absl::StrCat("cannot tell which of the rendered text is the assistant's: ",
                        attribution.status().message()),
           "mark the assistant's text with {% generation %} in the model's chat template, or set "
           "train_on to ALL");
    return std::nullopt;
  }
  const std::vector<bool> supervised = SupervisedMessages(row_.infos, options_.train_on);
  const bool wanted =
      options_.train_on != TrainOn::kAll;  // of ALL the spans left out are asked for
  std::vector<TextRange> spans;
  bool endless = false;
  for (const TurnSpan& turn :
       FindTurns({rendered, encoding_, *attribution, frame_, model_.eos_token_id})) {
    if (supervised[turn.message] != wanted) continue;
    spans.push_back(turn.range);
    endless = endless || (wanted && !turn.ends_with_token);
  }
  std::vector<bool> shown(row_.infos.size(), false);
  for (const AttributedRange& part : attribution->ranges) shown[part.message] = true;
  for (size_t i = 0; i < shown.size(); ++i) {
    if (shown[i]) continue;
    const std::string field = absl::StrCat("messages[", i, "]");
    if (supervised[i]) {
      Refuse("MESSAGE_NOT_SHOWN", field,
             "the model's chat template shows nothing of this message, so nothing can be learnt",
             "remove the message, or give it \"weight\": 0");
      return std::nullopt;
    }
    if (ShowsText(row_.messages[i])) {
      Note("WARNING", "MESSAGE_NOT_SHOWN", field,
           absl::StrCat("the model's chat template leaves out ", row_.infos[i].role,
                        " messages like this one"),
           "the model will not see it, here or when it is used");
    }
  }
  if (endless) {
    Note("WARNING", "NO_END_OF_TURN", "messages",
         "no end-of-turn token follows an assistant message",
         "the model may not learn to stop; see the model's chat template and eos_token");
  }
  return spans;
}

bool RowEncoder::Work::CheckIds() {
  for (const int32_t id : encoding_.ids) {
    if (id < options_.vocab_size) continue;
    return Refuse(
        "TOKEN_OUTSIDE_MODEL", "",
        absl::StrCat("token ", id, " (", model_.tokenizer->IdToToken(id).value_or(""),
                     ") is outside the model's vocabulary of ", options_.vocab_size),
        "the tokenizer does not belong to this model, or the text uses a token added to it");
  }
  return true;
}

void RowEncoder::Work::Finish() {
  out_.token_ids = std::move(encoding_.ids);
  const bool counted_before = std::count(out_.loss_weight.begin(), out_.loss_weight.end(), 1) > 0;
  if (out_.fate == EncodedRow::Fate::kTruncated) {
    out_.token_ids.resize(options_.max_length);
    out_.loss_weight.resize(options_.max_length);
  }
  if (!out_.loss_weight.empty()) out_.loss_weight[0] = 0;  // nothing predicts the first token
  if (std::count(out_.loss_weight.begin(), out_.loss_weight.end(), 1) > 0) return;
  if (counted_before && out_.fate == EncodedRow::Fate::kTruncated) {
    Refuse(
        "NOTHING_TO_LEARN", "",
        absl::StrCat("cut to max_length ", options_.max_length, ", no token that counts is left"),
        "raise max_length, or set over_length to DROP");
  } else {
    Refuse("NOTHING_TO_LEARN", "", "no token of this row counts for the loss",
           row_.kind == RowKind::kChat ? "it needs an assistant message whose weight is not 0"
                                       : "it is too short: no token follows another one");
  }
}

RowEncoder::RowEncoder(const TextModel& model, const EncodeOptions& options)
    : model_(model),
      options_(options),
      frame_(model.chat_template == nullptr ? AssistantFrame()
                                            : FindAssistantFrame(*model.chat_template)) {}

EncodedRow RowEncoder::Encode(const Row& row) const { return Work(*this, row).Run(); }

}  // namespace anneal::prepare
