#pragma once
// Unary calls: who calls, where the work is done, and how it ends.

#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/rpc/authentication.h"
#include "common/rpc/status.h"
#include "coordinator/api/transfer_pool.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"

namespace anneal {

// Ends a call: to be called once, from any thread. Request and response live until then.
using FinishCall = std::function<void(const absl::Status&)>;

// Finds out who calls and whether they may, and runs `work` on the pool. The call ends when the
// work, or whoever it hands `finish` to, calls it.
inline grpc::ServerUnaryReactor* BeginOnPool(
    TransferPool& pool, const Authenticator& authenticator, Right right,
    grpc::CallbackServerContext& context,
    std::function<void(const Caller&, const FinishCall& finish)> work) {
  grpc::ServerUnaryReactor* reactor = context.DefaultReactor();
  absl::StatusOr<Caller> caller = authenticator.CallerOf(context, right);
  if (!caller.ok()) {
    reactor->Finish(ToGrpcStatus(caller.status()));
    return reactor;
  }
  pool.Post([reactor, caller = *std::move(caller), work = std::move(work)] {
    work(caller, [reactor](const absl::Status& status) { reactor->Finish(ToGrpcStatus(status)); });
  });
  return reactor;
}

// The same for work that is done when it returns: for all that touches the disk.
inline grpc::ServerUnaryReactor* AnswerOnPool(TransferPool& pool,
                                              const Authenticator& authenticator, Right right,
                                              grpc::CallbackServerContext& context,
                                              std::function<absl::Status(const Caller&)> work) {
  return BeginOnPool(pool, authenticator, right, context,
                     [work = std::move(work)](const Caller& caller, const FinishCall& finish) {
                       finish(work(caller));
                     });
}

// The same on gRPC's own thread: only for work that neither waits nor touches the disk.
template <typename Work>
grpc::ServerUnaryReactor* AnswerAtOnce(const Authenticator& authenticator, Right right,
                                       grpc::CallbackServerContext& context, const Work& work) {
  grpc::ServerUnaryReactor* reactor = context.DefaultReactor();
  const absl::StatusOr<Caller> caller = authenticator.CallerOf(context, right);
  reactor->Finish(ToGrpcStatus(caller.ok() ? work(*caller) : caller.status()));
  return reactor;
}

}  // namespace anneal
