#pragma once
// Which methods a server has.

#include <memory>
#include <set>
#include <string>

#include "absl/strings/string_view.h"
#include "grpcpp/server_builder.h"
#include "grpcpp/support/server_interceptor.h"

namespace anneal {

// "package.Service/Method". gRPC lets interceptors see whatever path a caller has made up; only
// these are known beforehand, and their number is bounded.
using ServedMethods = std::set<std::string>;

// Gets the methods of all services that `builder` has once it builds, before the first call;
// reflection and grpc.health.v1 are among them.
std::shared_ptr<const ServedMethods> CollectServedMethods(grpc::ServerBuilder& builder);

// Whether a call's path ("/package.Service/Method") is one of them.
bool IsServed(const ServedMethods& methods, absl::string_view path);

// The same interceptors, for calls of the server's own methods only.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> ForServedMethods(
    std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> factory,
    std::shared_ptr<const ServedMethods> methods);

}  // namespace anneal
