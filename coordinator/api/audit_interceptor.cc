#include "coordinator/api/audit_interceptor.h"

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "anneal/internal/fleet_service.pb.h"
#include "anneal/v1/key_service.pb.h"
#include "common/rpc/request_id.h"
#include "coordinator/api/resource_names.h"
#include "google/protobuf/message.h"
#include "grpcpp/server_context.h"

namespace anneal {
namespace {

using ::grpc::experimental::InterceptionHookPoints;
using ::grpc::experimental::ServerRpcInfo;

// Calls that change nothing. Everything else is written down, so that a new method is, too.
bool OnlyReads(absl::string_view method) {
  const absl::string_view name = method.substr(method.rfind('/') + 1);
  for (const absl::string_view verb : {"Get", "List", "Watch", "Read", "Download"}) {
    if (absl::StartsWith(name, verb)) return true;
  }
  // CheckFleet, the other of this verb, sets all workers to work.
  return name == "CheckJob";
}

// The resource that a message names in this field. Nothing that only stands where a name should: it
// may be a secret in the wrong place.
std::string ResourceIn(const google::protobuf::Message& message, const char* field_name) {
  const google::protobuf::FieldDescriptor* field =
      message.GetDescriptor()->FindFieldByName(field_name);
  if (field == nullptr || field->is_repeated() ||
      field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_STRING)
    return "";
  std::string name = message.GetReflection()->GetString(message, field);
  return IsResourceName(name) ? name : "";
}

// Lives as long as its call.
class AuditInterceptor : public grpc::experimental::Interceptor {
 public:
  AuditInterceptor(AuditLog& log, const Authenticator& authenticator, Clock& clock,
                   ServerRpcInfo& info)
      : log_(log),
        authenticator_(authenticator),
        clock_(clock),
        context_(*info.server_context()),
        only_reads_(OnlyReads(info.method())) {
    entry_.method = std::string(absl::StripPrefix(info.method(), "/"));
  }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    // When the call comes in: at its end the caller may have revoked its own key.
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA) &&
        !only_reads_) {
      Identify();
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_MESSAGE) &&
        methods->GetRecvMessage() != nullptr) {
      Received(*static_cast<const google::protobuf::Message*>(methods->GetRecvMessage()));
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_MESSAGE) &&
        methods->GetSendMessage() != nullptr) {
      Sends(*static_cast<const google::protobuf::Message*>(methods->GetSendMessage()));
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      Finish(static_cast<absl::StatusCode>(methods->GetSendStatus().error_code()));
    }
    methods->Proceed();
  }

 private:
  void Identify() {
    const absl::StatusOr<Caller> caller = authenticator_.Identify(context_);
    if (!caller.ok()) return;
    entry_.creator = caller->creator;
    entry_.project = caller->project;
    entry_.role = std::string(RoleName(caller->role));
  }

  void Received(const google::protobuf::Message& message) {
    if (!entry_.resource.empty()) return;
    if (const auto* observed = dynamic_cast<const internal::Observed*>(&message)) {
      const std::string worker = absl::StrCat("workers/", observed->worker());
      if (IsResourceName(worker)) entry_.resource = worker;
      return;
    }
    entry_.resource = ResourceIn(message, "name");
    // A job's parent is not the job.
    if (entry_.resource.empty() && only_reads_) entry_.resource = ResourceIn(message, "parent");
  }

  // What is answered is what was changed or made.
  void Sends(const google::protobuf::Message& message) {
    if (only_reads_) return;
    if (const auto* made = dynamic_cast<const v1::CreateKeyResponse*>(&message)) {
      const v1::Key& key = made->key();
      entry_.resource = key.name();
      entry_.detail = absl::StrCat(v1::Key::Role_Name(key.role()), " of ", key.creator(), " in ",
                                   key.project());
      return;
    }
    if (std::string made = ResourceIn(message, "name"); !made.empty())
      entry_.resource = std::move(made);
  }

  void Finish(absl::StatusCode code) {
    const bool refused =
        code == absl::StatusCode::kUnauthenticated || code == absl::StatusCode::kPermissionDenied;
    if (only_reads_ && !refused) return;
    if (only_reads_) Identify();
    entry_.time = clock_.TimeNow();
    entry_.peer = context_.peer();
    entry_.request_id = std::string(RequestIdOf(context_));
    entry_.code = absl::StatusCodeToString(code);
    log_.Append(entry_);
  }

  AuditLog& log_;
  const Authenticator& authenticator_;
  Clock& clock_;
  const grpc::ServerContextBase& context_;
  const bool only_reads_;
  AuditEntry entry_;
};

}  // namespace

grpc::experimental::Interceptor* AuditInterceptorFactory::CreateServerInterceptor(
    ServerRpcInfo* info) {
  // Health and reflection need no key; and not all of their messages are generated classes, as all
  // of ours are.
  if (!absl::StartsWith(info->method(), "/anneal.")) return nullptr;
  return new AuditInterceptor(log_, authenticator_, clock_, *info);
}

}  // namespace anneal
