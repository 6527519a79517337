#pragma once
// Protobuf message -> JSON as programs want it: snake_case, 64-bit integers as numbers, enum values
// by full name, Timestamp as RFC 3339, Duration as "1.5s", bytes as base64. Scalars without
// presence are always there; optional fields and messages only when set. (protobuf's own JSON
// writes 64-bit integers as strings.)

#include <functional>
#include <string>

#include "common/format/json.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace anneal::spec {

// An Any of a linked type is shown with its fields beside "@type", another one as {"@type",
// "value"}. Non-finite doubles become "NaN", "Infinity", "-Infinity".
Json MessageToJson(const google::protobuf::Message& message);

// One field of `message` in the same form.
Json FieldToJson(const google::protobuf::Message& message,
                 const google::protobuf::FieldDescriptor& field);

// Calls `visit` for every set field below `message` that holds a value and not further fields:
// scalars, durations, lists, maps, and messages without fields set. Paths are as people write them
// ("training.batch_size"), in the order of field numbers.
using LeafVisitor =
    std::function<void(const std::string& path, const google::protobuf::Message& parent,
                       const google::protobuf::FieldDescriptor& field)>;
void ForEachLeaf(const google::protobuf::Message& message, const LeafVisitor& visit);

}  // namespace anneal::spec
