#pragma once
// YAML text -> a bounded tree of scalars, lists and maps that keeps positions, order and duplicate
// keys.

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/spec/issues.h"
#include "common/spec/yaml_loader.h"

namespace anneal::spec {

struct YamlNode {
  enum class Kind { kNull, kScalar, kList, kMap };
  Kind kind = Kind::kNull;
  SourcePosition position;
  std::string scalar;
  bool quoted = false;  // a quoted or block scalar: text, whatever it looks like
  // Of a map: items[i] belongs to keys[i]; keys are scalars.
  std::vector<YamlNode> keys;
  std::vector<YamlNode> items;
};

// Adds an issue with a position for everything that keeps the text from being one plain document:
// syntax, limits, encoding, tabs as indentation, anchors, aliases, tags, keys that are no scalars.
// `root` is set unless false is returned; then the text could not be read to its end.
bool ParseYamlTree(absl::string_view text, const YamlLimits& limits, YamlNode* root,
                   IssueList* issues);

}  // namespace anneal::spec
