#pragma once
// What names one call to the API in answers, logs and the audit log, so that a user can quote it
// and an operator find it.
//
// It is, in this order: the metadata `x-request-id` that the client sent; the field `request_id` of
// a unary call's message, which makes repetitions of the call known; one that the server makes.
// A client's must be [A-Za-z0-9._-]{1,64}, else it is passed over. It comes back in the trailing
// metadata `x-request-id` of every call, and with an error as google.rpc.RequestInfo.

#include "absl/strings/string_view.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_interceptor.h"

namespace anneal {

inline constexpr char kRequestIdKey[] = "x-request-id";

// Whether `text` can be one.
bool IsRequestId(absl::string_view text);

// The call's, for as long as the call lasts; empty on a server without the interceptor below.
absl::string_view RequestIdOf(const grpc::ServerContextBase& context);

// Gives each call of our own services its id, before its handler runs. Owned by the gRPC server;
// what it refers to must outlive it. Thread-safe.
class RequestIdInterceptorFactory : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  RequestIdInterceptorFactory(Clock& clock, Random& random) : clock_(clock), random_(random) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override;

 private:
  Clock& clock_;
  Random& random_;
};

}  // namespace anneal
