// Any line of a data file: refused with reasons, or a row.

#include "common/base/status.h"
#include "worker/prepare/row_parser.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const anneal::prepare::ParsedRow parsed =
      anneal::prepare::ParseRow({reinterpret_cast<const char*>(data), size});
  ANNEAL_CHECK(parsed.issues.size() <= anneal::prepare::kMaxIssuesPerRow);
  return 0;
}
