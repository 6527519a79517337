#pragma once
// Job files: YAML or JSON text -> any protobuf message, by its descriptor.
//
// Field names are snake_case. Enum values are accepted in any case and with or without their prefix
// (REJECT, over_length_reject). Everything else a person may have got wrong is an error with line
// and column: unknown keys (with a suggestion), keys that occur twice, two members of a oneof,
// anchors and aliases, tags, wrong types, numbers out of range, tabs as indentation, several
// documents, text that is too large or too deep. Quoted numbers are strings, not numbers.
//
// The text is read as a stream of parser events and not as YAML::Node, because nodes hide anchors
// and cannot bound aliases.

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "anneal/v1/issue.pb.h"
#include "google/protobuf/message.h"

namespace anneal::spec {

struct YamlLimits {
  size_t max_bytes = 1u << 20;
  int max_depth = 32;
  // Scalars, lists and maps together.
  size_t max_nodes = 100'000;
};

struct SourcePosition {
  int line = 0;    // from 1
  int column = 0;  // from 1, in characters
};
// Where each field stands in the file, by field path ("training.epochs", "data.train[0]"), so that
// issues found later can point at it.
using SourceMap = std::map<std::string, SourcePosition>;

// Fills `message` (cleared first) from `text`. Returns all errors found, at most 100; empty = the
// whole text was taken over. `file` is how the user named the text. `positions` may be null.
std::vector<v1::Issue> LoadYaml(absl::string_view text, absl::string_view file,
                                google::protobuf::Message* message, SourceMap* positions = nullptr,
                                const YamlLimits& limits = {});

// `LoadYaml` of a file's content; "-" reads standard input. A file that cannot be read is an issue
// too.
std::vector<v1::Issue> LoadYamlFile(const std::string& path, google::protobuf::Message* message,
                                    SourceMap* positions = nullptr, const YamlLimits& limits = {});

// Applies "a.b.c=value"; the value is YAML ("[a, b]", "{rank: 8}"). A list or map replaces the one
// that was there.
std::vector<v1::Issue> ApplyOverride(absl::string_view assignment,
                                     google::protobuf::Message* message);

// Fills file, line and column of issues that have a field but no line. A field that is not in the
// file takes the position of the nearest field around it.
void LocateIssues(absl::string_view file, const SourceMap& positions,
                  std::vector<v1::Issue>* issues);

}  // namespace anneal::spec
