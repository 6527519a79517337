#include "common/spec/yaml_tree.h"

#include <algorithm>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "yaml-cpp/anchor.h"
#include "yaml-cpp/eventhandler.h"
#include "yaml-cpp/exceptions.h"
#include "yaml-cpp/mark.h"
#include "yaml-cpp/parser.h"

namespace anneal::spec {
namespace {

constexpr char kYaml[] = "YAML";
// yaml-cpp's scanner takes time quadratic in the brackets that are open and in the tokens of a line
// that may yet turn out to be a key. These bounds are far above any job file and keep hostile ones
// below a few seconds.
constexpr int kMaxOpenBrackets = 1000;
constexpr size_t kMaxLineBytes = 64u << 10;

bool IsContinuation(char c) { return (static_cast<uint8_t>(c) & 0xC0) == 0x80; }

// Bytes of the UTF-8 character at the start of `text`, 0 if there is no valid one (Unicode 15,
// table 3-7).
size_t Utf8Length(absl::string_view text) {
  const auto at = [&](size_t i) {
    return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{0};
  };
  const auto continues = [&](size_t from, size_t to) {
    for (size_t i = from; i < to; ++i) {
      if ((at(i) & 0xC0) != 0x80) return false;
    }
    return true;
  };
  const uint8_t first = at(0);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return continues(1, 2) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const bool overlong = first == 0xE0 && at(1) < 0xA0;
    const bool surrogate = first == 0xED && at(1) > 0x9F;
    return continues(1, 3) && !overlong && !surrogate ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const bool overlong = first == 0xF0 && at(1) < 0x90;
    const bool beyond = first == 0xF4 && at(1) > 0x8F;
    return continues(1, 4) && !overlong && !beyond ? 4 : 0;
  }
  return 0;
}

void SetPosition(v1::Issue& issue, SourcePosition position) {
  issue.set_line(position.line);
  issue.set_column(position.column);
}

// Thrown by the builder to leave yaml-cpp's parser; carries nothing, the issue is already noted.
struct StopParsing {};

// Builds the tree from parser events. Only the innermost open list or map grows, so pointers to its
// ancestors stay valid.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(absl::string_view text, const YamlLimits& limits, YamlNode* root, IssueList* issues)
      : text_(text),
        limits_(limits),
        lines_(absl::StrSplit(text, '\n')),
        root_(root),
        issues_(issues) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ == 1) return;
    AddError(mark, "several documents in one text", "a job file holds one job");
    throw StopParsing();
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    AddNode(YamlNode::Kind::kNull, mark, anchor, "");
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    AddError(mark, "aliases are not supported", "write the value out");
    AddNode(YamlNode::Kind::kNull, mark, YAML::NullAnchor, "");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    YamlNode& node = AddNode(YamlNode::Kind::kScalar, mark, anchor, tag);
    node.scalar = value;
    node.quoted = tag == "!";
    if (IsUnclosedQuote(mark)) AddError(mark, "the quote is never closed");
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    Open(AddNode(YamlNode::Kind::kList, mark, anchor, tag), mark);
  }
  void OnSequenceEnd() override { open_.pop_back(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    Open(AddNode(YamlNode::Kind::kMap, mark, anchor, tag), mark);
  }
  void OnMapEnd() override { open_.pop_back(); }

  void AddError(const YAML::Mark& mark, absl::string_view message, absl::string_view hint = "") {
    SetPosition(issues_->AddError(kYaml, "", message, hint), PositionOf(mark));
  }

 private:
  YamlNode& AddNode(YamlNode::Kind kind, const YAML::Mark& mark, YAML::anchor_t anchor,
                    const std::string& tag) {
    if (++nodes_ > limits_.max_nodes) {
      AddError(mark, absl::StrCat("more than ", limits_.max_nodes, " values"));
      throw StopParsing();
    }
    if (anchor != YAML::NullAnchor)
      AddError(mark, "anchors are not supported", "write the value out");
    if (!tag.empty() && tag != "?" && tag != "!")
      AddError(mark, absl::StrCat("tag ", tag, " is not supported"));
    YamlNode* node = root_;
    if (!open_.empty()) {
      YamlNode& parent = *open_.back();
      const bool is_key =
          parent.kind == YamlNode::Kind::kMap && parent.keys.size() == parent.items.size();
      if (is_key && kind != YamlNode::Kind::kScalar) {
        AddError(mark, "a key must be a name");
        throw StopParsing();
      }
      node = &(is_key ? parent.keys : parent.items).emplace_back();
    }
    node->kind = kind;
    node->position = PositionOf(mark);
    return *node;
  }

  void Open(YamlNode& node, const YAML::Mark& mark) {
    open_.push_back(&node);
    if (open_.size() <= static_cast<size_t>(limits_.max_depth)) return;
    AddError(mark, absl::StrCat("nested deeper than ", limits_.max_depth, " levels"));
    throw StopParsing();
  }

  // yaml-cpp counts lines and bytes from 0.
  SourcePosition PositionOf(const YAML::Mark& mark) const {
    SourcePosition position{std::max(mark.line, 0) + 1, 1};
    if (mark.line < 0 || static_cast<size_t>(mark.line) >= lines_.size() || mark.column < 0)
      return position;
    const absl::string_view before = lines_[mark.line].substr(0, mark.column);
    position.column += static_cast<int>(
        before.size() - std::count_if(before.begin(), before.end(), IsContinuation));
    return position;
  }

  // yaml-cpp takes a quoted scalar that ends with the text for a closed one.
  bool IsUnclosedQuote(const YAML::Mark& mark) const {
    if (mark.line < 0 || static_cast<size_t>(mark.line) >= lines_.size() || mark.column < 0)
      return false;
    const size_t start = lines_[mark.line].data() - text_.data() + mark.column;
    if (start >= text_.size() || (text_[start] != '"' && text_[start] != '\'')) return false;
    const char quote = text_[start];
    for (size_t i = start + 1; i < text_.size(); ++i) {
      const bool doubled = quote == '\'' && text_.substr(i, 2) == "''";
      const bool escaped = quote == '"' && text_[i] == '\\';
      if (doubled || escaped) {
        ++i;
      } else if (text_[i] == quote) {
        return false;
      }
    }
    return true;
  }

  const absl::string_view text_;
  const YamlLimits& limits_;
  const std::vector<absl::string_view> lines_;
  YamlNode* const root_;
  IssueList* const issues_;
  std::vector<YamlNode*> open_;
  size_t nodes_ = 0;
  int documents_ = 0;
};

// Bytes that no job file has, before a parser sees them. Returns whether parsing may go on.
bool CheckCharacters(absl::string_view text, bool tabs_may_indent, IssueList* issues) {
  SourcePosition position{1, 1};
  bool indentation = true;
  int open_brackets = 0;
  size_t line_bytes = 0;
  while (!text.empty()) {
    const auto c = static_cast<uint8_t>(text[0]);
    const size_t length = Utf8Length(text);
    if (length == 0) {
      SetPosition(issues->AddError(kYaml, "", absl::StrFormat("byte 0x%02x is not valid UTF-8", c),
                                   "save the file as UTF-8"),
                  position);
      return false;
    }
    if ((c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7f) {
      SetPosition(issues->AddError(kYaml, "", absl::StrFormat("control character 0x%02x", c)),
                  position);
      return false;
    }
    if (c == '\t' && indentation && !tabs_may_indent) {
      SetPosition(issues->AddError(kYaml, "", "tab used as indentation", "indent with spaces"),
                  position);
      return false;
    }
    if (c == '[' || c == '{') ++open_brackets;
    if (c == ']' || c == '}') --open_brackets;
    if (open_brackets > kMaxOpenBrackets) {
      SetPosition(
          issues->AddError(kYaml, "",
                           absl::StrCat("nested deeper than ", kMaxOpenBrackets, " brackets")),
          position);
      return false;
    }
    line_bytes = c == '\n' ? 0 : line_bytes + length;
    if (line_bytes > kMaxLineBytes) {
      SetPosition(
          issues->AddError(kYaml, "", absl::StrCat("a line of more than ", kMaxLineBytes, " bytes"),
                           "break it"),
          position);
      return false;
    }
    indentation = c == '\n' || (indentation && c == ' ');
    position = c == '\n' ? SourcePosition{position.line + 1, 1}
                         : SourcePosition{position.line, position.column + 1};
    text.remove_prefix(length);
  }
  return true;
}

}  // namespace

bool ParseYamlTree(absl::string_view text, const YamlLimits& limits, YamlNode* root,
                   IssueList* issues) {
  if (text.size() > limits.max_bytes) {
    issues->AddError(kYaml, "", absl::StrCat(text.size(), " bytes; at most ", limits.max_bytes));
    return false;
  }
  absl::ConsumePrefix(&text, "\xEF\xBB\xBF");  // byte order mark
  const size_t start = text.find_first_not_of(" \t\r\n");
  const bool is_json = start != absl::string_view::npos && text[start] == '{';
  if (!CheckCharacters(text, is_json, issues)) return false;
  std::string content(text);
  // JSON may be indented with tabs, which stand between tokens only, and yaml-cpp would refuse
  // them.
  if (is_json) std::replace(content.begin(), content.end(), '\t', ' ');

  TreeBuilder builder(text, limits, root, issues);
  try {
    std::istringstream stream(content);
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(builder)) {
      issues->AddError(kYaml, "", "is empty");
      return false;
    }
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const StopParsing&) {
    return false;
  } catch (const YAML::Exception& e) {
    builder.AddError(e.mark, e.msg);
    return false;
  }
  return true;
}

}  // namespace anneal::spec
