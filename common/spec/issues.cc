#include "common/spec/issues.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace anneal::spec {
namespace {

// Beyond this a suggestion helps nobody, and the quadratic distance of a hostile key would cost
// time.
constexpr size_t kMaxSuggestionWord = 64;

// Optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours
// (Boytsov 2011, section 2.2).
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substitution = a[i - 1] == b[j - 1] ? 0 : 1;
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + substitution});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

// UTF-8 passes; control characters, which could move a terminal's cursor or forge a line, are shown
// as \xNN.
std::string Printable(absl::string_view text) {
  std::string out;
  for (char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppendFormat(&out, "\\x%02x", byte);
    } else {
      out.push_back(c);
    }
  }
  return out;
}

absl::string_view SeverityName(v1::Issue::Severity severity) {
  switch (severity) {
    case v1::Issue::SEVERITY_ERROR:
      return "error";
    case v1::Issue::SEVERITY_WARNING:
      return "warning";
    default:
      return "info";
  }
}

}  // namespace

v1::Issue& IssueList::AddError(absl::string_view code, absl::string_view field,
                               absl::string_view message, absl::string_view hint) {
  has_errors_ = true;
  return Add(v1::Issue::SEVERITY_ERROR, code, field, message, hint);
}

v1::Issue& IssueList::AddWarning(absl::string_view code, absl::string_view field,
                                 absl::string_view message, absl::string_view hint) {
  return Add(v1::Issue::SEVERITY_WARNING, code, field, message, hint);
}

v1::Issue& IssueList::Add(v1::Issue::Severity severity, absl::string_view code,
                          absl::string_view field, absl::string_view message,
                          absl::string_view hint) {
  v1::Issue& issue = issues_.emplace_back();
  issue.set_severity(severity);
  issue.set_code(std::string(code));
  issue.set_field(std::string(field));
  issue.set_message(std::string(message));
  issue.set_hint(std::string(hint));
  return issue;
}

bool HasErrors(const std::vector<v1::Issue>& issues) {
  return std::any_of(issues.begin(), issues.end(), [](const v1::Issue& issue) {
    return issue.severity() == v1::Issue::SEVERITY_ERROR;
  });
}

std::string FormatIssue(const v1::Issue& issue) {
  std::string out;
  if (!issue.file().empty()) {
    out = issue.file();
    if (issue.line() > 0) absl::StrAppend(&out, ":", issue.line());
    if (issue.column() > 0) absl::StrAppend(&out, ":", issue.column());
    out += ": ";
  }
  absl::StrAppend(&out, SeverityName(issue.severity()), ": ");
  if (!issue.field().empty()) absl::StrAppend(&out, issue.field(), ": ");
  out += issue.message();
  if (!issue.hint().empty()) absl::StrAppend(&out, " (", issue.hint(), ")");
  return Printable(out);
}

std::string ClosestMatch(absl::string_view word, const std::vector<std::string>& candidates) {
  if (word.empty() || word.size() > kMaxSuggestionWord) return "";
  const std::string lower = absl::AsciiStrToLower(word);
  size_t best_distance = std::max<size_t>(1, word.size() / 3) + 1;
  std::string best;
  for (const std::string& candidate : candidates) {
    if (candidate.size() > kMaxSuggestionWord) continue;
    const size_t distance = EditDistance(lower, absl::AsciiStrToLower(candidate));
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::string SuggestionHint(absl::string_view word, const std::vector<std::string>& candidates) {
  std::string match = ClosestMatch(word, candidates);
  if (!match.empty()) return absl::StrCat("did you mean ", match, "?");
  if (candidates.empty()) return "";
  return absl::StrCat("known here: ", absl::StrJoin(candidates, ", "));
}

}  // namespace anneal::spec
