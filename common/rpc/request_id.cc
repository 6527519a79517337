#include "common/rpc/request_id.h"

#include <algorithm>
#include <map>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "common/rpc/status.h"
#include "google/protobuf/message.h"

namespace anneal {
namespace {

using ::grpc::experimental::InterceptionHookPoints;
using ::grpc::experimental::ServerRpcInfo;

constexpr size_t kMaxBytes = 64;

// The text field `request_id` of a message; empty if it has none.
std::string RequestIdIn(const google::protobuf::Message& message) {
  const google::protobuf::FieldDescriptor* field =
      message.GetDescriptor()->FindFieldByName("request_id");
  if (field == nullptr || field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_STRING)
    return "";
  return message.GetReflection()->GetString(message, field);
}

// Lives as long as its call.
class RequestIdInterceptor : public grpc::experimental::Interceptor {
 public:
  RequestIdInterceptor(Clock& clock, Random& random, const ServerRpcInfo& info)
      : clock_(clock), random_(random), unary_(info.type() == ServerRpcInfo::Type::UNARY) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA))
      Take(methods->GetRecvInitialMetadata());
    if (unary_ && !sent_ &&
        methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_MESSAGE) &&
        methods->GetRecvMessage() != nullptr) {
      Use(RequestIdIn(*static_cast<const google::protobuf::Message*>(methods->GetRecvMessage())));
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      if (auto* trailing = methods->GetSendTrailingMetadata())
        trailing->insert({kRequestIdKey, id_});
      const grpc::Status status = methods->GetSendStatus();
      if (!status.ok()) methods->ModifySendStatus(WithRequestId(status, id_));
    }
    methods->Proceed();
  }

 private:
  using Metadata = std::multimap<grpc::string_ref, grpc::string_ref>;

  // From here on the metadata hold the call's id, whoever has made it.
  void Take(Metadata* metadata) {
    if (metadata == nullptr) return;
    for (auto [entry, end] = metadata->equal_range(kRequestIdKey); entry != end; ++entry) {
      const absl::string_view text(entry->second.data(), entry->second.size());
      if (!sent_ && IsRequestId(text)) {
        id_ = std::string(text);
        sent_ = true;
      }
    }
    if (!sent_) id_ = NewUlid(clock_.TimeNow(), random_);
    metadata->erase(kRequestIdKey);
    entry_ = &metadata->insert({kRequestIdKey, id_})->second;
  }

  void Use(std::string id) {
    if (entry_ == nullptr || !IsRequestId(id)) return;
    id_ = std::move(id);
    *entry_ = id_;
  }

  Clock& clock_;
  Random& random_;
  const bool unary_;
  std::string id_;
  bool sent_ = false;  // as metadata
  grpc::string_ref* entry_ = nullptr;
};

}  // namespace

bool IsRequestId(absl::string_view text) {
  return !text.empty() && text.size() <= kMaxBytes &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
         });
}

absl::string_view RequestIdOf(const grpc::ServerContextBase& context) {
  const auto found = context.client_metadata().find(kRequestIdKey);
  if (found == context.client_metadata().end()) return "";
  return {found->second.data(), found->second.size()};
}

grpc::experimental::Interceptor* RequestIdInterceptorFactory::CreateServerInterceptor(
    ServerRpcInfo* info) {
  // The messages of health and reflection are not all generated classes, as all of ours are.
  if (!absl::StartsWith(info->method(), "/anneal.v1.")) return nullptr;
  return new RequestIdInterceptor(clock_, random_, *info);
}

}  // namespace anneal
