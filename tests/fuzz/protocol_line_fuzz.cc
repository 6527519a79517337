// Any line from the other end of a run folder's socket: refused, or understood and said again in
// the same words. The tasks inside are read as a child would.

#include "common/base/status.h"
#include "common/protocol/messages.h"

namespace protocol = anneal::protocol;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<protocol::Line> line = protocol::ParseLine(text);
  if (!line.ok()) return 0;
  const std::string formatted = protocol::FormatLine(*line);
  const absl::StatusOr<protocol::Line> again = protocol::ParseLine(formatted);
  ANNEAL_CHECK_OK(again.status());
  ANNEAL_CHECK(protocol::FormatLine(*again) == formatted);
  if (line->start.has_value()) {
    (void)protocol::TrainTaskFromJson(line->start->task);
    (void)protocol::PrepareTaskFromJson(line->start->task);
  }
  return 0;
}
