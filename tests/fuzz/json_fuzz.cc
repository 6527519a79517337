// Any text: refused, or a value whose own text reads back as the same value.

#include "common/base/status.h"
#include "common/format/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<anneal::Json> json = anneal::ParseJson(text);
  if (!json.ok()) return 0;
  const absl::StatusOr<anneal::Json> again = anneal::ParseJson(anneal::DumpJson(*json));
  ANNEAL_CHECK_OK(again.status());
  ANNEAL_CHECK(*again == *json);
  return 0;
}
