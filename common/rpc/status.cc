#include "common/rpc/status.h"

#include <algorithm>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/base/utf8.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace anneal {
namespace {

constexpr absl::string_view kDomain = "anneal";
constexpr absl::string_view kTypePrefix = "type.googleapis.com/";
constexpr int kMaxViolations = 20;
constexpr size_t kMaxMessageBytes = 1024;
constexpr size_t kMaxFieldBytes = 120;
constexpr size_t kMaxDescriptionBytes = 400;
constexpr size_t kMaxRequestIdBytes = 64;
// Of the serialised google.rpc.Status without the request id's 120 bytes; on the wire it is base64
// (4/3).
constexpr size_t kMaxDetailsBytes = 2900;

template <typename Message>
std::string TypeUrl() {
  return absl::StrCat(std::string(kTypePrefix), Message::descriptor()->full_name());
}

template <typename Message>
std::optional<Message> PayloadOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(TypeUrl<Message>());
  Message message;
  if (!payload.has_value() || !message.ParseFromString(std::string(*payload))) return std::nullopt;
  return message;
}

// `text` as valid UTF-8, which protobuf strings must be, of at most `limit` bytes. A cut is marked
// by three dots.
std::string Clean(absl::string_view text, size_t limit) {
  constexpr absl::string_view kDots = "...";
  std::string out;
  while (!text.empty() && out.size() <= limit) {
    const size_t n = Utf8SequenceBytes(text);
    absl::StrAppend(&out, n == 0 ? absl::string_view("?") : text.substr(0, n));
    text.remove_prefix(std::max<size_t>(n, 1));
  }
  if (out.size() <= limit) return out;
  size_t cut = limit - kDots.size();
  while (cut > 0 && (static_cast<unsigned char>(out[cut]) & 0xc0) == 0x80) --cut;
  return absl::StrCat(absl::string_view(out).substr(0, cut), kDots);
}

google::rpc::BadRequest BadRequestOf(const std::vector<FieldViolation>& violations) {
  google::rpc::BadRequest out;
  for (const FieldViolation& violation : violations) {
    if (out.field_violations_size() == kMaxViolations) break;
    auto* added = out.add_field_violations();
    added->set_field(Clean(violation.field, kMaxFieldBytes));
    added->set_description(Clean(violation.description, kMaxDescriptionBytes));
  }
  return out;
}

}  // namespace

absl::Status InvalidFields(const std::vector<FieldViolation>& violations) {
  ANNEAL_CHECK(!violations.empty());
  const FieldViolation& first = violations.front();
  std::string message = absl::StrCat(first.field, ": ", first.description);
  if (violations.size() > 1) absl::StrAppend(&message, " (and ", violations.size() - 1, " more)");
  absl::Status status = absl::InvalidArgumentError(message);
  status.SetPayload(TypeUrl<google::rpc::BadRequest>(),
                    absl::Cord(BadRequestOf(violations).SerializeAsString()));
  return status;
}

std::vector<FieldViolation> FieldViolationsOf(const absl::Status& status) {
  std::vector<FieldViolation> out;
  if (const auto bad_request = PayloadOf<google::rpc::BadRequest>(status)) {
    for (const auto& violation : bad_request->field_violations()) {
      out.push_back({violation.field(), violation.description()});
    }
  }
  return out;
}

absl::Status WithRetryDelay(absl::Status status, absl::Duration delay) {
  google::rpc::RetryInfo info;
  info.mutable_retry_delay()->set_seconds(absl::IDivDuration(delay, absl::Seconds(1), &delay));
  info.mutable_retry_delay()->set_nanos(static_cast<int>(absl::ToInt64Nanoseconds(delay)));
  if (!status.ok())
    status.SetPayload(TypeUrl<google::rpc::RetryInfo>(), absl::Cord(info.SerializeAsString()));
  return status;
}

std::optional<absl::Duration> RetryDelayOf(const absl::Status& status) {
  const auto info = PayloadOf<google::rpc::RetryInfo>(status);
  if (!info.has_value()) return std::nullopt;
  return absl::Seconds(info->retry_delay().seconds()) +
         absl::Nanoseconds(info->retry_delay().nanos());
}

grpc::Status WithRequestId(const grpc::Status& status, absl::string_view request_id) {
  google::rpc::Status details;
  if (status.error_details().empty() || !details.ParseFromString(status.error_details())) {
    // gRPC's own errors have none.
    details.set_code(static_cast<int>(status.error_code()));
    details.set_message(Clean(status.error_message(), kMaxMessageBytes));
  }
  google::rpc::RequestInfo info;
  info.set_request_id(Clean(request_id, kMaxRequestIdBytes));
  details.add_details()->PackFrom(info);
  return grpc::Status(status.error_code(), status.error_message(), details.SerializeAsString());
}

std::string RequestIdOf(const absl::Status& status) {
  const auto info = PayloadOf<google::rpc::RequestInfo>(status);
  return info.has_value() ? info->request_id() : std::string();
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(Clean(status.message(), kMaxMessageBytes));

  google::rpc::ErrorInfo error_info;
  const std::string reason = ReasonOf(status);
  error_info.set_reason(
      Clean(reason.empty() ? absl::StatusCodeToString(status.code()) : reason, kMaxFieldBytes));
  error_info.set_domain(std::string(kDomain));
  details.add_details()->PackFrom(error_info);
  if (const auto retry = PayloadOf<google::rpc::RetryInfo>(status))
    details.add_details()->PackFrom(*retry);
  if (auto bad_request = PayloadOf<google::rpc::BadRequest>(status)) {
    auto* packed = details.add_details();
    packed->PackFrom(*bad_request);
    while (details.ByteSizeLong() > kMaxDetailsBytes) {
      bad_request->mutable_field_violations()->RemoveLast();
      packed->PackFrom(*bad_request);
    }
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), details.message(),
                      details.SerializeAsString());
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status out(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return out;
  for (const auto& detail : details.details()) {
    google::rpc::ErrorInfo error_info;
    if (detail.Is<google::rpc::BadRequest>() || detail.Is<google::rpc::RetryInfo>() ||
        detail.Is<google::rpc::RequestInfo>()) {
      out.SetPayload(detail.type_url(), absl::Cord(detail.value()));
    } else if (detail.UnpackTo(&error_info) && error_info.domain() == kDomain) {
      out = WithReason(std::move(out), error_info.reason());
    }
  }
  return out;
}

}  // namespace anneal
