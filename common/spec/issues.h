#pragma once
// Making and showing anneal.v1.Issue: what is wrong with what a user handed in.

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "anneal/v1/issue.pb.h"

namespace anneal::spec {

// Collects issues in the order found. Guarded by its caller.
class IssueList {
 public:
  // The returned issue may be completed (file, line, hint) until the next call.
  v1::Issue& AddError(absl::string_view code, absl::string_view field, absl::string_view message,
                      absl::string_view hint = "");
  v1::Issue& AddWarning(absl::string_view code, absl::string_view field, absl::string_view message,
                        absl::string_view hint = "");

  bool has_errors() const { return has_errors_; }
  const std::vector<v1::Issue>& issues() const { return issues_; }
  std::vector<v1::Issue> Release() && { return std::move(issues_); }

 private:
  v1::Issue& Add(v1::Issue::Severity severity, absl::string_view code, absl::string_view field,
                 absl::string_view message, absl::string_view hint);

  std::vector<v1::Issue> issues_;
  bool has_errors_ = false;
};

bool HasErrors(const std::vector<v1::Issue>& issues);

// "job.yaml:3:5: error: training.epoch: unknown field (did you mean epochs?)", control characters
// escaped: an issue may quote a hostile file. One line; no line end.
std::string FormatIssue(const v1::Issue& issue);

// The candidate that a person most likely meant by `word`: the fewest edits (optimal string
// alignment distance, case ignored), at most a third of the word's length and at least one. Empty
// if none is that near.
std::string ClosestMatch(absl::string_view word, const std::vector<std::string>& candidates);

// "did you mean epochs?" or, with no near candidate, "known here: a, b, c".
std::string SuggestionHint(absl::string_view word, const std::vector<std::string>& candidates);

}  // namespace anneal::spec
