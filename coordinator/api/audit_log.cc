#include "coordinator/api/audit_log.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "common/rpc/request_id.h"
#include "google/protobuf/message.h"
#include "grpcpp/server_context.h"

namespace anneal {
namespace {

using ::grpc::experimental::InterceptionHookPoints;
using ::grpc::experimental::ServerRpcInfo;

// Calls that change nothing. Everything else is written down, so that a new method is, too.
bool OnlyReads(absl::string_view method) {
  const absl::string_view name = method.substr(method.rfind('/') + 1);
  for (const absl::string_view verb : {"Get", "List", "Watch", "Read", "Check", "Download"}) {
    if (absl::StartsWith(name, verb)) return true;
  }
  return false;
}

// The text field `name`, or `parent`, of a message; empty if it has neither.
std::string ResourceIn(const google::protobuf::Message& message) {
  for (const char* name : {"name", "parent"}) {
    const google::protobuf::FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(name);
    if (field != nullptr && field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_STRING)
      return message.GetReflection()->GetString(message, field);
  }
  return "";
}

// Lives as long as its call.
class AuditInterceptor : public grpc::experimental::Interceptor {
 public:
  AuditInterceptor(AuditLog& log, const Authenticator& authenticator, Clock& clock,
                   ServerRpcInfo& info)
      : log_(log), authenticator_(authenticator), clock_(clock), context_(*info.server_context()) {
    entry_.method = std::string(absl::StripPrefix(info.method(), "/"));
  }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_MESSAGE) &&
        methods->GetRecvMessage() != nullptr) {
      Name(*static_cast<const google::protobuf::Message*>(methods->GetRecvMessage()));
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_MESSAGE) &&
        methods->GetSendMessage() != nullptr) {
      Name(*static_cast<const google::protobuf::Message*>(methods->GetSendMessage()));
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      Finish(static_cast<absl::StatusCode>(methods->GetSendStatus().error_code()));
    }
    methods->Proceed();
  }

 private:
  void Name(const google::protobuf::Message& message) {
    if (entry_.resource.empty()) entry_.resource = ResourceIn(message);
  }

  void Finish(absl::StatusCode code) {
    const bool refused =
        code == absl::StatusCode::kUnauthenticated || code == absl::StatusCode::kPermissionDenied;
    if (OnlyReads(entry_.method) && !refused) return;
    if (const absl::StatusOr<Caller> caller = authenticator_.Identify(context_); caller.ok()) {
      entry_.creator = caller->creator;
      entry_.project = caller->project;
      entry_.role = std::string(RoleName(caller->role));
    }
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
  AuditEntry entry_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<AuditLog>> AuditLog::Open(const std::string& path,
                                                         FileSystem& files) {
  std::unique_ptr<AuditLog> log(new AuditLog(path, files));
  absl::MutexLock lock(&log->mu_);
  if (const absl::StatusOr<FileInfo> info = files.Stat(path); info.ok())
    log->bytes_ = info->size_bytes;
  ANNEAL_ASSIGN_OR_RETURN(log->file_, files.OpenForAppend(path, log->bytes_));
  return log;
}

void AuditLog::Append(const AuditEntry& entry) {
  const std::string line = absl::StrCat(
      DumpJson({{"time", absl::FormatTime(absl::RFC3339_full, entry.time, absl::UTCTimeZone())},
                {"creator", entry.creator},
                {"project", entry.project},
                {"role", entry.role},
                {"peer", entry.peer},
                {"method", entry.method},
                // A caller may send anything.
                {"resource", entry.resource.substr(0, 200)},
                {"code", entry.code},
                {"request_id", entry.request_id}}),
      "\n");
  absl::MutexLock lock(&mu_);
  if (absl::Status status = Write(line); !status.ok())
    ANNEAL_LOG(ERROR) << "the audit log cannot be written" << Field("why", status.message());
}

absl::Status AuditLog::Write(absl::string_view line) {
  if (bytes_ + static_cast<int64_t>(line.size()) > kMaxBytes) {
    file_.reset();
    ANNEAL_RETURN_IF_ERROR(files_.Rename(path_, absl::StrCat(path_, ".1")));
    bytes_ = 0;
  }
  if (file_ == nullptr) {
    ANNEAL_ASSIGN_OR_RETURN(file_, files_.OpenForAppend(path_, bytes_));
  }
  bytes_ += static_cast<int64_t>(line.size());
  return file_->Append(line);
}

grpc::experimental::Interceptor* AuditInterceptorFactory::CreateServerInterceptor(
    ServerRpcInfo* info) {
  // Health and reflection need no key; and not all of their messages are generated classes, as all
  // of ours are.
  if (!absl::StartsWith(info->method(), "/anneal.v1.")) return nullptr;
  return new AuditInterceptor(log_, authenticator_, clock_, *info);
}

}  // namespace anneal
