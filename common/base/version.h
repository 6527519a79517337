#pragma once

#include "absl/strings/string_view.h"

namespace anneal {

// "0.1.0", from the top CMakeLists.txt.
absl::string_view Version();

}  // namespace anneal
