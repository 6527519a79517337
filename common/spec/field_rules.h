#pragma once
// What every section of the resolver does with a field: fill it in, and check its value.

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "common/spec/issues.h"
#include "common/spec/origins.h"
#include "google/protobuf/message.h"

namespace anneal::spec {

// Codes of issues.
inline constexpr char kMissing[] = "MISSING_FIELD";
inline constexpr char kOutOfRange[] = "OUT_OF_RANGE";
inline constexpr char kTooLong[] = "TOO_LONG";

// Characters of valid UTF-8 (protobuf refuses other strings).
int CharacterCount(absl::string_view text);
std::string FirstCharacters(absl::string_view text, int count);

// Writes into `origins` and `issues`, which must outlive it. `path` below is the parent's with a
// final dot ("training."); `number` is that of a field of the parent: its name would be looked up
// as a text, half a hundred times for each job; `field` is a whole path. Guarded by its caller.
class FieldRules {
 public:
  FieldRules(Origins* origins, IssueList* issues) : origins_(*origins), issues_(*issues) {}

  // Sets the field and notes where the value came from, unless the user set it. Enums and
  // booleans are given as int64_t.
  template <typename T>
  void Default(google::protobuf::Message* parent, absl::string_view path, int number, T value,
               const char* origin) {
    const auto* field = parent->GetDescriptor()->FindFieldByNumber(number);
    if (!parent->GetReflection()->HasField(*parent, field)) Put(parent, field, path, value, origin);
  }
  // The same, whatever the user said.
  template <typename T>
  void Replace(google::protobuf::Message* parent, absl::string_view path, int number, T value,
               const char* origin) {
    Put(parent, parent->GetDescriptor()->FindFieldByNumber(number), path, value, origin);
  }

  // `max` may be the largest int64_t: no limit.
  void CheckRange(absl::string_view field, int64_t value, int64_t min, int64_t max);
  // `holds` is to be written so that NaN fails it; `range` is for people.
  void CheckDouble(absl::string_view field, double value, bool holds, absl::string_view range);
  // Refuses values of newer enums, and garbage from the wire.
  void CheckEnum(const google::protobuf::Message& parent, absl::string_view path, int number);
  // Length, and no control characters.
  void CheckText(absl::string_view field, const std::string& text, int max_characters);
  // For values that are neither numbers nor enums.
  void NoteOrigin(absl::string_view path, const std::string& name, const char* origin);

 private:
  void Put(google::protobuf::Message* parent, const google::protobuf::FieldDescriptor* field,
           absl::string_view path, int64_t value, const char* origin);
  void Put(google::protobuf::Message* parent, const google::protobuf::FieldDescriptor* field,
           absl::string_view path, double value, const char* origin);

  Origins& origins_;
  IssueList& issues_;
};

}  // namespace anneal::spec
