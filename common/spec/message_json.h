#pragma once
// Protobuf message -> JSON as programs want it: snake_case, 64-bit integers as numbers, enum values by full name, Timestamp
// as RFC 3339, Duration as "1.5s", bytes as base64. Scalars without presence are always there; optional fields and messages
// only when set. (protobuf's own JSON writes 64-bit integers as strings.)

#include "common/format/json.h"
#include "google/protobuf/message.h"

namespace anneal::spec {

// An Any of a linked type is shown with its fields beside "@type", another one as {"@type", "value"}. Non-finite doubles
// become "NaN", "Infinity", "-Infinity".
Json MessageToJson(const google::protobuf::Message& message);

}  // namespace anneal::spec
