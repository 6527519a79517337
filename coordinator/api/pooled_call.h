#pragma once
// Unary calls that touch the disk.

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "common/rpc/authentication.h"
#include "common/rpc/status.h"
#include "coordinator/api/transfer_pool.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"

namespace anneal {

// Finds out who calls and whether they may, runs `work` on the pool, and finishes the call with
// what it returns. Request and response live until then.
inline grpc::ServerUnaryReactor* AnswerOnPool(TransferPool& pool,
                                              const Authenticator& authenticator, Right right,
                                              grpc::CallbackServerContext& context,
                                              std::function<absl::Status(const Caller&)> work) {
  grpc::ServerUnaryReactor* reactor = context.DefaultReactor();
  absl::StatusOr<Caller> caller = authenticator.CallerOf(context, right);
  if (!caller.ok()) {
    reactor->Finish(ToGrpcStatus(caller.status()));
    return reactor;
  }
  pool.Post([reactor, caller = *std::move(caller), work = std::move(work)] {
    reactor->Finish(ToGrpcStatus(work(caller)));
  });
  return reactor;
}

}  // namespace anneal
