#include "common/rpc/metrics_interceptor.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/strip.h"

namespace anneal {
namespace {

using ::grpc::experimental::InterceptionHookPoints;
using ::grpc::experimental::ServerRpcInfo;

bool IsOurs(absl::StatusCode code) {
  return code == absl::StatusCode::kUnknown || code == absl::StatusCode::kDeadlineExceeded ||
         code == absl::StatusCode::kInternal || code == absl::StatusCode::kUnavailable ||
         code == absl::StatusCode::kDataLoss;
}

// Lives as long as its call.
class MetricsInterceptor : public grpc::experimental::Interceptor {
 public:
  MetricsInterceptor(RpcMetrics& metrics, Clock& clock, const ServerRpcInfo& info, bool is_served)
      : metrics_(metrics),
        clock_(clock),
        method_(is_served ? absl::StripPrefix(info.method(), "/") : "unknown"),
        unary_(info.type() == ServerRpcInfo::Type::UNARY),
        start_(clock.MonotonicNow()) {
    metrics_.open.Add(1, {method_});
  }

  ~MetricsInterceptor() override {
    metrics_.open.Add(-1, {method_});
    metrics_.requests.Increment({method_, absl::StatusCodeToString(code_)});
    if (IsOurs(code_)) metrics_.failures.Increment();
    if (unary_)
      metrics_.duration.Observe(absl::ToDoubleSeconds(clock_.MonotonicNow() - start_), {method_});
  }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      code_ = static_cast<absl::StatusCode>(methods->GetSendStatus().error_code());
    }
    methods->Proceed();
  }

 private:
  RpcMetrics& metrics_;
  Clock& clock_;
  const std::string method_;
  const bool unary_;
  const absl::Duration start_;
  // What it stays if the caller leaves before a status is sent.
  absl::StatusCode code_ = absl::StatusCode::kCancelled;
};

}  // namespace

grpc::experimental::Interceptor* MetricsInterceptorFactory::CreateServerInterceptor(
    ServerRpcInfo* info) {
  return new MetricsInterceptor(metrics_, clock_, *info, IsServed(*methods_, info->method()));
}

}  // namespace anneal
