#pragma once
// One row of training data, as its author wrote it: what RowParser makes and RowEncoder turns into
// tokens.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/format/json.h"
#include "common/protocol/messages.h"

namespace anneal::prepare {

// Something wrong with a row. File and line are filled in by whoever knows them.
using Issue = protocol::IssueReport;

enum class RowKind { kChat, kPromptCompletion, kText };

// What the loss mask needs to know of a message.
struct MessageInfo {
  std::string role;
  std::optional<bool> weight;  // the author's own word whether it counts
};

struct Row {
  RowKind kind = RowKind::kText;
  // kChat: the messages as the template sees them, without weights, and the tools or null.
  Json messages;
  Json tools;
  std::vector<MessageInfo> infos;  // one for each message
  // kPromptCompletion
  std::string prompt, completion;
  // kText
  std::string text;
};

}  // namespace anneal::prepare
