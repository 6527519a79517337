#pragma once
// Counts every call of a server into RpcMetrics.

#include "common/base/clock.h"
#include "common/rpc/server.h"
#include "grpcpp/support/server_interceptor.h"

namespace anneal {

// Owned by the gRPC server; `metrics` and `clock` must outlive it. Thread-safe.
class MetricsInterceptorFactory : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  MetricsInterceptorFactory(RpcMetrics& metrics, Clock& clock) : metrics_(metrics), clock_(clock) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override;

 private:
  RpcMetrics& metrics_;
  Clock& clock_;
};

}  // namespace anneal
