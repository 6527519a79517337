#include "common/spec/field_rules.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"

namespace anneal::spec {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

bool StartsCharacter(char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }

bool IsControl(char c) { return static_cast<uint8_t>(c) < 0x20 || c == 0x7f; }

}  // namespace

int CharacterCount(absl::string_view text) {
  return static_cast<int>(std::count_if(text.begin(), text.end(), StartsCharacter));
}

std::string FirstCharacters(absl::string_view text, int count) {
  size_t end = 0;
  while (end < text.size()) {
    if (StartsCharacter(text[end]) && count-- == 0) break;
    ++end;
  }
  return std::string(text.substr(0, end));
}

void FieldRules::Put(Message* parent, const FieldDescriptor* field, absl::string_view path,
                     int64_t value, const char* origin) {
  const auto* reflection = parent->GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      reflection->SetInt32(parent, field, static_cast<int32_t>(value));
      break;
    case FieldDescriptor::CPPTYPE_INT64:
      reflection->SetInt64(parent, field, value);
      break;
    case FieldDescriptor::CPPTYPE_UINT64:
      reflection->SetUInt64(parent, field, static_cast<uint64_t>(value));
      break;
    case FieldDescriptor::CPPTYPE_BOOL:
      reflection->SetBool(parent, field, value != 0);
      break;
    default:
      reflection->SetEnumValue(parent, field, static_cast<int>(value));
  }
  NoteOrigin(path, field->name(), origin);
}

void FieldRules::Put(Message* parent, const FieldDescriptor* field, absl::string_view path,
                     double value, const char* origin) {
  parent->GetReflection()->SetDouble(parent, field, value);
  NoteOrigin(path, field->name(), origin);
}

void FieldRules::NoteOrigin(absl::string_view path, const std::string& name, const char* origin) {
  origins_[absl::StrCat(path, name)] = origin;
}

void FieldRules::CheckRange(absl::string_view field, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return;
  const std::string range = max == std::numeric_limits<int64_t>::max()
                                ? absl::StrCat("at least ", min)
                                : absl::StrCat(min, " to ", max);
  issues_.AddError(kOutOfRange, field, absl::StrCat(value, " is out of range: ", range));
}

void FieldRules::CheckDouble(absl::string_view field, double value, bool holds,
                             absl::string_view range) {
  if (holds && std::isfinite(value)) return;
  issues_.AddError(kOutOfRange, field, absl::StrCat(value, " is out of range: ", range));
}

void FieldRules::CheckEnum(const Message& parent, absl::string_view path, int number) {
  const FieldDescriptor* field = parent.GetDescriptor()->FindFieldByNumber(number);
  const int value = parent.GetReflection()->GetEnumValue(parent, field);
  if (field->enum_type()->FindValueByNumber(value) != nullptr) return;
  issues_.AddError("UNKNOWN_VALUE", absl::StrCat(path, field->name()),
                   absl::StrCat(value, " is not a value of this field"),
                   "client and coordinator may be of different versions");
}

void FieldRules::CheckText(absl::string_view field, const std::string& text, int max_characters) {
  const int characters = CharacterCount(text);
  if (characters > max_characters) {
    issues_.AddError(kTooLong, field,
                     absl::StrCat(characters, " characters; at most ", max_characters));
  }
  if (std::any_of(text.begin(), text.end(), IsControl)) {
    issues_.AddError("BAD_TEXT", field, "contains a control character");
  }
}

}  // namespace anneal::spec
