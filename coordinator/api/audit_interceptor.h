#pragma once
// Writes the calls of a server down in the audit log.

#include "common/base/clock.h"
#include "common/rpc/authentication.h"
#include "coordinator/api/audit_log.h"
#include "grpcpp/support/server_interceptor.h"

namespace anneal {

// Calls that only read are written down when they are refused; of streams, workers' above all, one
// line at their end. Owned by the gRPC server; what it refers to must outlive it. Thread-safe.
class AuditInterceptorFactory : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  AuditInterceptorFactory(AuditLog& log, const Authenticator& authenticator, Clock& clock)
      : log_(log), authenticator_(authenticator), clock_(clock) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override;

 private:
  AuditLog& log_;
  const Authenticator& authenticator_;
  Clock& clock_;
};

}  // namespace anneal
