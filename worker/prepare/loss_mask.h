#pragma once
// Which tokens of a row count for the loss: pure functions over a rendered, encoded conversation.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/text/chat_template.h"
#include "common/text/tokenizer.h"
#include "worker/prepare/row.h"

namespace anneal::prepare {

enum class TrainOn {
  kAssistant,  // what assistants say, each with its end-of-turn token
  kLastTurn,   // only the last of them
  kAll,        // every token
};
// INVALID_ARGUMENT unless it is ASSISTANT, LAST_TURN or ALL.
absl::StatusOr<TrainOn> ParseTrainOn(absl::string_view name);

// Whether each message counts. A message's own weight overrides `train_on`.
std::vector<bool> SupervisedMessages(absl::Span<const MessageInfo> messages, TrainOn train_on);

// How a template begins what the assistant says.
struct AssistantFrame {
  // What it appends when asked for a generation prompt: "<|im_start|>assistant\n". Empty if it
  // appends nothing.
  std::string generation_prompt;
  // Whitespace it writes between that, or where it appends nothing the end of the user's turn, and
  // the message: the model has to produce it. More than whitespace is a role's heading, which is
  // not the model's to say.
  std::string lead;
  // The same before the name of the function that a message begins to call, behind a heading:
  // "[TOOL_CALLS] [{\"name\": \"". It is the model's to say, whatever it is.
  std::string call_lead;
};
// Found by rendering tiny conversations. Empty for a template that refuses them.
AssistantFrame FindAssistantFrame(const ChatTemplate& chat_template);

// A conversation as the model will see it.
struct EncodedChat {
  const RenderedChat& rendered;
  const Encoding& encoding;
  const Attribution& attribution;
  const AssistantFrame& frame;
  // Id that ends a turn even if the tokenizer does not declare it special; -1 = none.
  int32_t eos_token_id = -1;
};

// An uninterrupted stretch of rendered text that one message came to.
struct TurnSpan {
  int message = 0;
  // From the end of the generation prompt, or else the begin of the lead, or where neither stands
  // before it the message's first character; to the end of the end-of-turn token, or where none
  // follows to the message's last character. It covers the template's text between the message's
  // own parts too (the frame of a tool call), because the model has to produce it.
  TextRange range;
  bool ends_with_token = false;
};

// In the order of the text. A message has one turn, or none if the template shows nothing of it, or
// several if it shows it several times. Where the template marks text of a message with generation
// blocks, those are its turns.
std::vector<TurnSpan> FindTurns(const EncodedChat& chat);

// 1 for each token that covers a byte of one of `spans`, which are sorted by their begin. A token
// across the edge of a span counts, as in transformers.
std::vector<uint8_t> WeightsOfSpans(const Encoding& encoding, absl::Span<const TextRange> spans);

}  // namespace anneal::prepare
