#include "common/spec/message_json.h"

#include <cmath>
#include <map>
#include <memory>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "google/protobuf/any.pb.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"

namespace anneal::spec {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

Json DoubleToJson(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return value;
}

Json EnumToJson(const FieldDescriptor& field, int number) {
  const auto* value = field.enum_type()->FindValueByNumber(number);
  return value != nullptr ? Json(value->name()) : Json(number);
}

Json StringToJson(const FieldDescriptor& field, const std::string& value) {
  return field.type() == FieldDescriptor::TYPE_BYTES ? Json(absl::Base64Escape(value))
                                                     : Json(value);
}

// Doubles for floats would show digits that the float never had.
Json FloatToJson(float value) {
  double shown = 0;
  if (!std::isfinite(value)) return DoubleToJson(value);
  return absl::SimpleAtod(absl::StrCat(value), &shown) ? Json(shown) : Json(value);
}

Json ScalarToJson(const Message& message, const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection.GetInt32(message, &field);
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection.GetInt64(message, &field);
    case FieldDescriptor::CPPTYPE_UINT32:
      return reflection.GetUInt32(message, &field);
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection.GetUInt64(message, &field);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return DoubleToJson(reflection.GetDouble(message, &field));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return FloatToJson(reflection.GetFloat(message, &field));
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.GetBool(message, &field);
    case FieldDescriptor::CPPTYPE_ENUM:
      return EnumToJson(field, reflection.GetEnumValue(message, &field));
    case FieldDescriptor::CPPTYPE_STRING:
      return StringToJson(field, reflection.GetString(message, &field));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return MessageToJson(reflection.GetMessage(message, &field));
  }
  return nullptr;
}

Json ElementToJson(const Message& message, const FieldDescriptor& field, int index) {
  const Reflection& reflection = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection.GetRepeatedInt32(message, &field, index);
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection.GetRepeatedInt64(message, &field, index);
    case FieldDescriptor::CPPTYPE_UINT32:
      return reflection.GetRepeatedUInt32(message, &field, index);
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection.GetRepeatedUInt64(message, &field, index);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return DoubleToJson(reflection.GetRepeatedDouble(message, &field, index));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return FloatToJson(reflection.GetRepeatedFloat(message, &field, index));
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.GetRepeatedBool(message, &field, index);
    case FieldDescriptor::CPPTYPE_ENUM:
      return EnumToJson(field, reflection.GetRepeatedEnumValue(message, &field, index));
    case FieldDescriptor::CPPTYPE_STRING:
      return StringToJson(field, reflection.GetRepeatedString(message, &field, index));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return MessageToJson(reflection.GetRepeatedMessage(message, &field, index));
  }
  return nullptr;
}

// Keys of integer or bool maps become text, as JSON wants.
Json MapToJson(const Message& message, const FieldDescriptor& field) {
  Json out = Json::object();
  const FieldDescriptor& key = *field.message_type()->FindFieldByNumber(1);
  const FieldDescriptor& value = *field.message_type()->FindFieldByNumber(2);
  const Reflection& reflection = *message.GetReflection();
  std::map<std::string, Json> sorted;  // a protobuf map has no order; ours is stable
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
    const Message& entry = reflection.GetRepeatedMessage(message, &field, i);
    const Json key_json = ScalarToJson(entry, key);
    sorted[key_json.is_string() ? key_json.get<std::string>() : key_json.dump()] =
        ScalarToJson(entry, value);
  }
  for (auto& [name, json] : sorted) out[name] = std::move(json);
  return out;
}

Json TimestampToJson(const google::protobuf::Timestamp& time) {
  return absl::FormatTime("%Y-%m-%d%ET%H:%M:%E*SZ",
                          absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos()),
                          absl::UTCTimeZone());
}

Json DurationToJson(const google::protobuf::Duration& duration) {
  const int64_t nanos = std::abs(duration.nanos());
  const bool negative = duration.seconds() < 0 || duration.nanos() < 0;
  std::string text = absl::StrCat(negative ? "-" : "", std::abs(duration.seconds()));
  if (nanos != 0) {
    std::string fraction = absl::StrFormat("%09d", nanos);
    fraction.erase(fraction.find_last_not_of('0') + 1);
    absl::StrAppend(&text, ".", fraction);
  }
  return absl::StrCat(text, "s");
}

Json AnyToJson(const google::protobuf::Any& any) {
  Json out = Json::object();
  out["@type"] = any.type_url();
  const std::string name = any.type_url().substr(any.type_url().rfind('/') + 1);
  const auto* descriptor =
      google::protobuf::DescriptorPool::generated_pool()->FindMessageTypeByName(name);
  if (descriptor != nullptr) {
    const Message* prototype =
        google::protobuf::MessageFactory::generated_factory()->GetPrototype(descriptor);
    std::unique_ptr<Message> inner(prototype->New());
    if (inner->ParseFromString(any.value())) {
      Json fields = MessageToJson(*inner);
      if (fields.is_object()) {
        out.update(fields);
        return out;
      }
    }
  }
  out["value"] = absl::Base64Escape(any.value());
  return out;
}

std::vector<const FieldDescriptor*> SetFields(const Message& message) {
  std::vector<const FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  return fields;
}

// `path` is that of the message with a dot, and the same again afterwards.
void ForEachLeafOf(const Message& message, const std::vector<const FieldDescriptor*>& fields,
                   std::string& path, const LeafVisitor& visit) {
  const size_t length = path.size();
  for (const FieldDescriptor* field : fields) {
    path += field->name();
    const bool holds_fields = !field->is_repeated() &&
                              field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE &&
                              field->message_type() != google::protobuf::Duration::descriptor();
    std::vector<const FieldDescriptor*> below;
    const Message* inner = nullptr;
    if (holds_fields) {
      inner = &message.GetReflection()->GetMessage(message, field);
      below = SetFields(*inner);
    }
    if (below.empty()) {
      visit(path, message, *field);
    } else {
      path += '.';
      ForEachLeafOf(*inner, below, path, visit);
    }
    path.resize(length);
  }
}

}  // namespace

Json FieldToJson(const Message& message, const FieldDescriptor& field) {
  if (field.is_map()) return MapToJson(message, field);
  if (!field.is_repeated()) return ScalarToJson(message, field);
  Json list = Json::array();
  for (int i = 0; i < message.GetReflection()->FieldSize(message, &field); ++i) {
    list.push_back(ElementToJson(message, field, i));
  }
  return list;
}

Json MessageToJson(const Message& message) {
  if (const auto* time = dynamic_cast<const google::protobuf::Timestamp*>(&message))
    return TimestampToJson(*time);
  if (const auto* duration = dynamic_cast<const google::protobuf::Duration*>(&message)) {
    return DurationToJson(*duration);
  }
  if (const auto* any = dynamic_cast<const google::protobuf::Any*>(&message))
    return AnyToJson(*any);
  Json out = Json::object();
  const auto& descriptor = *message.GetDescriptor();
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    const bool shown = !field.has_presence() || message.GetReflection()->HasField(message, &field);
    if (shown) out[field.name()] = FieldToJson(message, field);
  }
  return out;
}

void ForEachLeaf(const Message& message, const LeafVisitor& visit) {
  std::string path;
  ForEachLeafOf(message, SetFields(message), path, visit);
}

}  // namespace anneal::spec
