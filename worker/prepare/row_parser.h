#pragma once
// One line of a data file to a Row, strictly: whatever is not understood is an error, never
// ignored.

#include <vector>

#include "absl/strings/string_view.h"
#include "worker/prepare/row.h"

namespace anneal::prepare {

// Longer lines are refused unread.
inline constexpr size_t kMaxRowBytes = 16u << 20;

struct ParsedRow {
  Row row;                    // meaningful if there are no issues
  std::vector<Issue> issues;  // all that is wrong with the row, at most kMaxIssuesPerRow
};
inline constexpr size_t kMaxIssuesPerRow = 20;

// Reads one JSON object of one of the shapes
//   {"messages": [{"role": ..., "content": ..., "weight": 0|1, "name": ..., "tool_calls": [...]},
//   ...], "tools": [...]}
//   {"prompt": ..., "completion": ...}
//   {"text": ...}
// Thread-safe.
ParsedRow ParseRow(absl::string_view line);

}  // namespace anneal::prepare
