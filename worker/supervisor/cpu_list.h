#pragma once
// Sets of processors as Linux writes them (cpuset(7), "List format"): "0-15,32".

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace anneal {

// `processors` ascending. Empty for none.
std::string FormatCpuList(const std::vector<int>& processors);
// Ascending. INVALID_ARGUMENT for what FormatCpuList would not write.
absl::StatusOr<std::vector<int>> ParseCpuList(absl::string_view text);

// The processors that this process may run on.
std::vector<int> UsableProcessors();

}  // namespace anneal
