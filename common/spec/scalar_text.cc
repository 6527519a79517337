#include "common/spec/scalar_text.h"

#include "absl/strings/numbers.h"

namespace anneal::spec {

bool LooksLikeInteger(absl::string_view text) {
  if (!text.empty() && (text[0] == '+' || text[0] == '-')) text.remove_prefix(1);
  if (text.empty() || (text.size() > 1 && text[0] == '0')) return false;
  return text.find_first_not_of("0123456789") == absl::string_view::npos;
}

bool ParseDouble(const std::string& text, double* value) {
  return text.find_first_not_of("0123456789+-.eE") == std::string::npos &&
         absl::SimpleAtod(text, value);
}

bool ParseTimeSpan(const std::string& text, absl::Duration* value) {
  return text.find_first_not_of("0123456789.hms") == std::string::npos &&
         absl::ParseDuration(text, value);
}

}  // namespace anneal::spec
