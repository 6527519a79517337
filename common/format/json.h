#pragma once
// Bounded JSON reading on nlohmann::json: the one door for JSON that somebody else wrote.

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace anneal {

using Json = nlohmann::ordered_json;

struct JsonLimits {
  size_t max_bytes = 64u << 20;
  int max_depth = 64;
};

// Parses one JSON value. INVALID_ARGUMENT says where ("line 3 column 14") and what for: text over
// the limits, invalid UTF-8, trailing text, NaN/Infinity, and a key that occurs twice in one object
// (which RFC 8259 leaves open and we refuse).
absl::StatusOr<Json> ParseJson(absl::string_view text, const JsonLimits& limits = {});

// Reads and parses a file; errors name it.
absl::StatusOr<Json> ReadJsonFile(const std::string& path, const JsonLimits& limits = {});

// Compact text; doubles in shortest round-trip form. Invalid UTF-8 is replaced by U+FFFD.
std::string DumpJson(const Json& json);

}  // namespace anneal
