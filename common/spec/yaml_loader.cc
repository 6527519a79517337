#include "common/spec/yaml_loader.h"

#include <cmath>
#include <fstream>
#include <iostream>
#include <limits>
#include <set>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "common/spec/issues.h"
#include "common/spec/scalar_text.h"
#include "common/spec/yaml_tree.h"
#include "google/protobuf/duration.pb.h"

namespace anneal::spec {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr size_t kMaxIssues = 100;
constexpr size_t kMaxShownValue = 60;
constexpr char kUnknownField[] = "UNKNOWN_FIELD";
constexpr char kDuplicateField[] = "DUPLICATE_FIELD";
constexpr char kWrongType[] = "WRONG_TYPE";
constexpr char kOutOfRange[] = "OUT_OF_RANGE";
constexpr char kUnknownValue[] = "UNKNOWN_VALUE";

std::string Join(absl::string_view path, absl::string_view name) {
  return path.empty() ? std::string(name) : absl::StrCat(path, ".", name);
}

std::string Shown(const std::string& value) {
  if (value.size() <= kMaxShownValue) return absl::StrCat("'", value, "'");
  size_t end = kMaxShownValue;
  while (end > 0 && (static_cast<uint8_t>(value[end]) & 0xC0) == 0x80)
    --end;  // not inside a character
  return absl::StrCat("'", value.substr(0, end), "...'");
}

std::string Describe(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::kNull:
      return "nothing";
    case YamlNode::Kind::kScalar:
      return absl::StrCat(node.quoted ? "the text " : "", Shown(node.scalar));
    case YamlNode::Kind::kList:
      return "a list";
    case YamlNode::Kind::kMap:
      return "a map";
  }
  return "";
}

std::vector<std::string> FieldNames(const Descriptor& descriptor) {
  std::vector<std::string> names;
  for (int i = 0; i < descriptor.field_count(); ++i) names.push_back(descriptor.field(i)->name());
  return names;
}

// "OVER_LENGTH_" of a type whose first value is OVER_LENGTH_UNSPECIFIED.
std::string EnumPrefix(const EnumDescriptor& type) {
  absl::string_view first = type.value(0)->name();
  return absl::ConsumeSuffix(&first, "UNSPECIFIED") ? std::string(first) : "";
}

// Null if there is none; the unspecified value has no name here.
const EnumValueDescriptor* FindEnumValue(const EnumDescriptor& type, const std::string& text) {
  const std::string upper = absl::AsciiStrToUpper(text);
  const std::string prefix = EnumPrefix(type);
  for (int i = 0; i < type.value_count(); ++i) {
    const EnumValueDescriptor* value = type.value(i);
    if (!prefix.empty() && value->number() == 0) continue;
    if (upper == value->name() || absl::StrCat(prefix, upper) == value->name()) return value;
  }
  return nullptr;
}

std::vector<std::string> EnumShortNames(const EnumDescriptor& type) {
  const std::string prefix = EnumPrefix(type);
  std::vector<std::string> names;
  for (int i = 0; i < type.value_count(); ++i) {
    if (!prefix.empty() && type.value(i)->number() == 0) continue;
    names.push_back(std::string(absl::StripPrefix(type.value(i)->name(), prefix)));
  }
  return names;
}

// Where in the whole message a field of this name lives, for a key written one level too high or
// too low; "" if nowhere.
std::string FindElsewhere(const Descriptor& root, const std::string& name, const std::string& path,
                          int depth) {
  if (root.FindFieldByName(name) != nullptr) return Join(path, name);
  if (depth == 0) return "";
  for (int i = 0; i < root.field_count(); ++i) {
    const FieldDescriptor& field = *root.field(i);
    if (field.is_repeated() || field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
    std::string found =
        FindElsewhere(*field.message_type(), name, Join(path, field.name()), depth - 1);
    if (!found.empty()) return found;
  }
  return "";
}

// Fills messages from nodes, noting every error. One use.
class Filler {
 public:
  Filler(const Descriptor& root, SourceMap* positions, IssueList* issues)
      : root_(root), positions_(positions), issues_(issues) {}

  void FillMessage(const YamlNode& node, const std::string& path, Message* message) {
    if (node.kind != YamlNode::Kind::kMap) return WrongType(node, path, "a map of fields");
    std::map<std::string, SourcePosition> seen;
    std::map<const google::protobuf::OneofDescriptor*, std::string> members;
    for (size_t i = 0; i < node.keys.size(); ++i) {
      const YamlNode& key = node.keys[i];
      const std::string field_path = Join(path, key.scalar);
      const auto [first, is_new] = seen.emplace(key.scalar, key.position);
      if (!is_new) {
        Error(key, kDuplicateField, field_path,
              absl::StrCat("given twice, first in line ", first->second.line));
        continue;
      }
      const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(key.scalar);
      if (field == nullptr) {
        UnknownField(key, field_path, *message->GetDescriptor());
        continue;
      }
      if (const auto* oneof = field->real_containing_oneof(); oneof != nullptr) {
        const auto [member, only] = members.emplace(oneof, field->name());
        if (!only) {
          Error(key, "CONFLICT", field_path,
                absl::StrCat(member->second, " and ", field->name(), " exclude each other"),
                "keep one of them");
          continue;
        }
      }
      Note(key, field_path);
      FillField(node.items[i], field_path, *field, message);
    }
  }

  // The field must be empty if it is repeated.
  void FillField(const YamlNode& node, const std::string& path, const FieldDescriptor& field,
                 Message* message) {
    if (field.is_map()) return FillMap(node, path, field, message);
    if (field.is_repeated()) return FillList(node, path, field, message);
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      Message* inner = message->GetReflection()->MutableMessage(message, &field);
      // `full:` alone says something only where presence itself chooses: in a oneof.
      if (node.kind == YamlNode::Kind::kNull && field.real_containing_oneof() != nullptr) return;
      if (auto* duration = dynamic_cast<google::protobuf::Duration*>(inner))
        return FillDuration(node, path, duration);
      return FillMessage(node, path, inner);
    }
    FillScalar(node, path, field, message);
  }

  void FillMapEntry(const YamlNode& node, const std::string& path, const FieldDescriptor& field,
                    const std::string& key, Message* message) {
    Message* entry = message->GetReflection()->AddMessage(message, &field);
    const FieldDescriptor& key_field = *field.message_type()->FindFieldByNumber(1);
    const FieldDescriptor& value_field = *field.message_type()->FindFieldByNumber(2);
    YamlNode key_node{.kind = YamlNode::Kind::kScalar, .position = node.position, .scalar = key};
    FillField(key_node, path, key_field, entry);
    FillField(node, path, value_field, entry);
  }

  void UnknownField(const YamlNode& key, const std::string& path, const Descriptor& descriptor) {
    const std::string elsewhere = FindElsewhere(root_, key.scalar, "", /*depth=*/4);
    Error(key, kUnknownField, path, "unknown field",
          elsewhere.empty() ? SuggestionHint(key.scalar, FieldNames(descriptor))
                            : absl::StrCat("did you mean ", elsewhere, "?"));
  }

 private:
  void FillMap(const YamlNode& node, const std::string& path, const FieldDescriptor& field,
               Message* message) {
    if (node.kind != YamlNode::Kind::kMap) return WrongType(node, path, "a map");
    std::set<std::string> seen;
    for (size_t i = 0; i < node.keys.size(); ++i) {
      const YamlNode& key = node.keys[i];
      const std::string entry_path = Join(path, key.scalar);
      if (!seen.insert(key.scalar).second) {
        Error(key, kDuplicateField, entry_path, "given twice");
        continue;
      }
      Note(key, entry_path);
      FillMapEntry(node.items[i], entry_path, field, key.scalar, message);
    }
  }

  void FillList(const YamlNode& node, const std::string& path, const FieldDescriptor& field,
                Message* message) {
    if (node.kind != YamlNode::Kind::kList) {
      return WrongType(node, path, "a list",
                       node.kind == YamlNode::Kind::kScalar
                           ? absl::StrCat("write [", Shown(node.scalar), "]")
                           : "");
    }
    for (size_t i = 0; i < node.items.size(); ++i) {
      const std::string item_path = absl::StrCat(path, "[", i, "]");
      Note(node.items[i], item_path);
      if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        FillMessage(node.items[i], item_path,
                    message->GetReflection()->AddMessage(message, &field));
      } else {
        FillScalar(node.items[i], item_path, field, message);
      }
    }
  }

  void FillScalar(const YamlNode& node, const std::string& path, const FieldDescriptor& field,
                  Message* message) {
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32:
        return FillInteger<int32_t>(node, path, field, message, &Reflection::SetInt32,
                                    &Reflection::AddInt32);
      case FieldDescriptor::CPPTYPE_INT64:
        return FillInteger<int64_t>(node, path, field, message, &Reflection::SetInt64,
                                    &Reflection::AddInt64);
      case FieldDescriptor::CPPTYPE_UINT32:
        return FillInteger<uint32_t>(node, path, field, message, &Reflection::SetUInt32,
                                     &Reflection::AddUInt32);
      case FieldDescriptor::CPPTYPE_UINT64:
        return FillInteger<uint64_t>(node, path, field, message, &Reflection::SetUInt64,
                                     &Reflection::AddUInt64);
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return FillNumber<double>(node, path, field, message, &Reflection::SetDouble,
                                  &Reflection::AddDouble);
      case FieldDescriptor::CPPTYPE_FLOAT:
        return FillNumber<float>(node, path, field, message, &Reflection::SetFloat,
                                 &Reflection::AddFloat);
      case FieldDescriptor::CPPTYPE_BOOL:
        return FillBool(node, path, field, message);
      case FieldDescriptor::CPPTYPE_ENUM:
        return FillEnum(node, path, field, message);
      default:
        return FillString(node, path, field, message);
    }
  }

  template <typename T>
  using Setter = void (Reflection::*)(Message*, const FieldDescriptor*, T) const;

  template <typename T>
  void Store(const FieldDescriptor& field, Message* message, Setter<T> set, Setter<T> add,
             T value) {
    (message->GetReflection()->*(field.is_repeated() ? add : set))(message, &field, value);
  }

  template <typename T>
  void FillInteger(const YamlNode& node, const std::string& path, const FieldDescriptor& field,
                   Message* message, Setter<T> set, Setter<T> add) {
    if (node.kind != YamlNode::Kind::kScalar || node.quoted || !LooksLikeInteger(node.scalar)) {
      return WrongType(node, path, "a whole number");
    }
    T value = 0;
    if (!absl::SimpleAtoi(node.scalar, &value)) {
      return Error(
          node, kOutOfRange, path,
          absl::StrCat(Shown(node.scalar), " is out of range: ", std::numeric_limits<T>::min(),
                       " to ", std::numeric_limits<T>::max()));
    }
    Store<T>(field, message, set, add, value);
  }

  template <typename T>
  void FillNumber(const YamlNode& node, const std::string& path, const FieldDescriptor& field,
                  Message* message, Setter<T> set, Setter<T> add) {
    double value = 0;
    if (node.kind != YamlNode::Kind::kScalar || node.quoted || !ParseDouble(node.scalar, &value)) {
      return WrongType(node, path, "a number");
    }
    if (!std::isfinite(static_cast<T>(value))) {
      return Error(node, kOutOfRange, path, absl::StrCat(Shown(node.scalar), " is out of range"));
    }
    Store<T>(field, message, set, add, static_cast<T>(value));
  }

  void FillBool(const YamlNode& node, const std::string& path, const FieldDescriptor& field,
                Message* message) {
    const std::string text = absl::AsciiStrToLower(node.scalar);
    if (node.kind != YamlNode::Kind::kScalar || node.quoted ||
        (text != "true" && text != "false")) {
      return WrongType(node, path, "true or false");
    }
    Store<bool>(field, message, &Reflection::SetBool, &Reflection::AddBool, text == "true");
  }

  void FillEnum(const YamlNode& node, const std::string& path, const FieldDescriptor& field,
                Message* message) {
    const std::vector<std::string> names = EnumShortNames(*field.enum_type());
    if (node.kind != YamlNode::Kind::kScalar) {
      return WrongType(node, path, absl::StrCat("one of ", absl::StrJoin(names, ", ")));
    }
    const EnumValueDescriptor* value = FindEnumValue(*field.enum_type(), node.scalar);
    if (value == nullptr) {
      return Error(node, kUnknownValue, path,
                   absl::StrCat(Shown(node.scalar), " is not a value of this field"),
                   SuggestionHint(node.scalar, names));
    }
    Store<int>(field, message, &Reflection::SetEnumValue, &Reflection::AddEnumValue,
               value->number());
  }

  // "90s", "10m", "1h30m"; also what message_json writes.
  void FillDuration(const YamlNode& node, const std::string& path,
                    google::protobuf::Duration* duration) {
    absl::Duration value;
    if (node.kind != YamlNode::Kind::kScalar || !ParseTimeSpan(node.scalar, &value)) {
      return WrongType(node, path, "a time span", "write 10m, 90s or 1h30m");
    }
    // Seconds that do not fit become the largest that do; limits are common/spec/resolve's.
    const int64_t seconds = absl::IDivDuration(value, absl::Seconds(1), &value);
    duration->set_seconds(seconds);
    duration->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(value)));
  }

  // A plain `7` or `true` is taken as text where text is wanted: labels are often written so.
  void FillString(const YamlNode& node, const std::string& path, const FieldDescriptor& field,
                  Message* message) {
    if (node.kind != YamlNode::Kind::kScalar) return WrongType(node, path, "text");
    const Reflection& reflection = *message->GetReflection();
    if (field.is_repeated()) {
      reflection.AddString(message, &field, node.scalar);
    } else {
      reflection.SetString(message, &field, node.scalar);
    }
  }

  void WrongType(const YamlNode& node, const std::string& path, absl::string_view wanted,
                 absl::string_view hint = "") {
    Error(node, kWrongType, path, absl::StrCat("expected ", wanted, ", not ", Describe(node)),
          !hint.empty() || node.kind != YamlNode::Kind::kNull
              ? hint
              : "leave the key out to use the default");
  }

  void Error(const YamlNode& node, absl::string_view code, const std::string& path,
             absl::string_view message, absl::string_view hint = "") {
    if (issues_->issues().size() >= kMaxIssues) return;
    v1::Issue& issue = issues_->AddError(code, path, message, hint);
    issue.set_line(node.position.line);
    issue.set_column(node.position.column);
  }

  void Note(const YamlNode& node, const std::string& path) {
    if (positions_ != nullptr) positions_->emplace(path, node.position);
  }

  const Descriptor& root_;
  SourceMap* const positions_;
  IssueList* const issues_;
};

std::vector<v1::Issue> Finish(IssueList issues, absl::string_view file) {
  std::vector<v1::Issue> out = std::move(issues).Release();
  for (v1::Issue& issue : out) issue.set_file(std::string(file));
  return out;
}

// Where "a.b.c" leads: the message that holds the last field, and what is left of the path if that
// field is a map.
struct Target {
  Message* parent;
  const FieldDescriptor* field;
  std::string map_key;
};

bool FindTarget(absl::string_view path, Message* message, Filler* filler, Target* target) {
  std::string walked;
  for (;;) {
    const std::vector<std::string> parts = absl::StrSplit(path, absl::MaxSplits('.', 1));
    const YamlNode key{.kind = YamlNode::Kind::kScalar, .scalar = parts[0]};
    walked = Join(walked, parts[0]);
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(parts[0]);
    const bool leads_on = field != nullptr &&
                          field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE &&
                          (field->is_map() || !field->is_repeated());
    if (field == nullptr || (parts.size() > 1 && !leads_on)) {
      const YamlNode shown{.kind = YamlNode::Kind::kScalar, .scalar = parts.back()};
      if (field == nullptr) {
        filler->UnknownField(key, walked, *message->GetDescriptor());
      } else {
        filler->UnknownField(shown, Join(walked, parts[1]), *message->GetDescriptor());
      }
      return false;
    }
    if (parts.size() == 1 || field->is_map()) {
      *target = Target{message, field, parts.size() > 1 ? parts[1] : ""};
      return true;
    }
    message = message->GetReflection()->MutableMessage(message, field);
    path = path.substr(parts[0].size() + 1);
  }
}

}  // namespace

std::vector<v1::Issue> LoadYaml(absl::string_view text, absl::string_view file, Message* message,
                                SourceMap* positions, const YamlLimits& limits) {
  message->Clear();
  IssueList issues;
  YamlNode root;
  if (ParseYamlTree(text, limits, &root, &issues) && !issues.has_errors()) {
    Filler(*message->GetDescriptor(), positions, &issues).FillMessage(root, "", message);
  }
  return Finish(std::move(issues), file);
}

std::vector<v1::Issue> LoadYamlFile(const std::string& path, Message* message, SourceMap* positions,
                                    const YamlLimits& limits) {
  std::ifstream file;
  if (path != "-") file.open(path, std::ios::binary);
  std::istream& in = path == "-" ? std::cin : file;
  // One byte more than allowed is enough for LoadYaml to refuse the text.
  std::string text(limits.max_bytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad() || (path != "-" && !file.is_open())) {
    IssueList issues;
    issues.AddError("UNREADABLE", "", "cannot be read", "is the path right?");
    return Finish(std::move(issues), path);
  }
  text.resize(static_cast<size_t>(in.gcount()));
  return LoadYaml(text, path == "-" ? "standard input" : path, message, positions, limits);
}

std::vector<v1::Issue> ApplyOverride(absl::string_view assignment, Message* message) {
  const std::string file = absl::StrCat("--set ", assignment);
  IssueList issues;
  const size_t equals = assignment.find('=');
  if (equals == absl::string_view::npos || equals == 0) {
    issues.AddError("BAD_OVERRIDE", "", "not of the form field.path=value");
    return Finish(std::move(issues), file);
  }
  const std::string path(assignment.substr(0, equals));
  const absl::string_view value = assignment.substr(equals + 1);
  Filler filler(*message->GetDescriptor(), nullptr, &issues);
  Target target;
  if (!FindTarget(path, message, &filler, &target)) return Finish(std::move(issues), file);
  const bool entry = target.field->is_map() && !target.map_key.empty();
  const FieldDescriptor& value_field =
      entry ? *target.field->message_type()->FindFieldByNumber(2) : *target.field;
  YamlNode node{.kind = YamlNode::Kind::kScalar, .scalar = std::string(value)};
  const bool verbatim =
      !value_field.is_repeated() && value_field.cpp_type() == FieldDescriptor::CPPTYPE_STRING;
  if (!verbatim && !ParseYamlTree(value, {}, &node, &issues))
    return Finish(std::move(issues), file);
  if (entry) {
    filler.FillMapEntry(node, path, *target.field, target.map_key, target.parent);
  } else {
    target.parent->GetReflection()->ClearField(target.parent, target.field);
    filler.FillField(node, path, *target.field, target.parent);
  }
  std::vector<v1::Issue> out = Finish(std::move(issues), file);
  for (v1::Issue& issue : out) {
    issue.clear_line();
    issue.clear_column();
  }
  return out;
}

void LocateIssues(absl::string_view file, const SourceMap& positions,
                  std::vector<v1::Issue>* issues) {
  for (v1::Issue& issue : *issues) {
    if (issue.field().empty() || issue.line() > 0 || !issue.file().empty()) continue;
    std::string path = issue.field();
    auto found = positions.find(path);
    while (found == positions.end() && !path.empty()) {
      const size_t cut = path.find_last_of(".[");
      path.resize(cut == std::string::npos ? 0 : cut);
      found = positions.find(path);
    }
    issue.set_file(std::string(file));
    if (found == positions.end()) continue;
    issue.set_line(found->second.line);
    issue.set_column(found->second.column);
  }
}

}  // namespace anneal::spec
