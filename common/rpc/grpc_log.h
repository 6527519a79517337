#pragma once
// gRPC's own log lines in the form of ours.

namespace anneal {

// From now on what gRPC logs (errors, unless GRPC_VERBOSITY says more) is written as a line of our
// log, with `library=grpc`. Servers and channels of common/rpc call it. Thread-safe.
void TakeGrpcLogs();

}  // namespace anneal
