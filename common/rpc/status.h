#pragma once
// absl::Status <-> grpc::Status with google.rpc details, so that any gRPC client gets reason,
// fields and retry time.
//
// The details of one status, message included, stay below 4 KiB: Debian's gRPC drops trailing
// metadata of 8 KiB. What does not fit is cut and said to be cut; long lists belong into response
// bodies.

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "grpcpp/support/status.h"

namespace anneal {

// One field of a request that is wrong. Becomes google.rpc.BadRequest.FieldViolation.
struct FieldViolation {
  // Path in the request, e.g. "spec.training.batch_size".
  std::string field;
  // What is wrong, with the value that is, and what to do.
  std::string description;
};

// INVALID_ARGUMENT that carries the violations; the message names the first one. Must not be empty.
absl::Status InvalidFields(const std::vector<FieldViolation>& violations);
inline absl::Status InvalidField(absl::string_view field, absl::string_view description) {
  return InvalidFields({{std::string(field), std::string(description)}});
}
std::vector<FieldViolation> FieldViolationsOf(const absl::Status& status);

// Says when to try again. Becomes google.rpc.RetryInfo.
absl::Status WithRetryDelay(absl::Status status, absl::Duration delay);
std::optional<absl::Duration> RetryDelayOf(const absl::Status& status);

// Says which call the error is of (see request_id.h). Becomes google.rpc.RequestInfo, beside what
// the status carries already.
grpc::Status WithRequestId(const grpc::Status& status, absl::string_view request_id);
// Empty if the error does not say, as one that did not come from a server.
std::string RequestIdOf(const absl::Status& status);

// ErrorInfo carries ReasonOf(status), or the code's name, in domain "anneal"; BadRequest the first
// 20 violations.
grpc::Status ToGrpcStatus(const absl::Status& status);
// The other way round; details that are not ours or cannot be read are left out, never an error.
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace anneal
