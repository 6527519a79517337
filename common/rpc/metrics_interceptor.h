#pragma once
// Counts every call of a server into RpcMetrics.

#include <memory>
#include <utility>

#include "common/base/clock.h"
#include "common/rpc/served_methods.h"
#include "common/rpc/server.h"
#include "grpcpp/support/server_interceptor.h"

namespace anneal {

// Calls of methods that the server does not have are counted together, as method "unknown": every
// new label value stays in memory, and callers make up what they like. Owned by the gRPC server;
// `metrics` and `clock` must outlive it. Thread-safe.
class MetricsInterceptorFactory : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  MetricsInterceptorFactory(RpcMetrics& metrics, Clock& clock,
                            std::shared_ptr<const ServedMethods> methods)
      : metrics_(metrics), clock_(clock), methods_(std::move(methods)) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override;

 private:
  RpcMetrics& metrics_;
  Clock& clock_;
  const std::shared_ptr<const ServedMethods> methods_;
};

}  // namespace anneal
