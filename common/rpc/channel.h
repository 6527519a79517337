#pragma once
// Client side: channels, and what every call carries.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"

namespace anneal {

struct ChannelOptions {
  // "host:port" or "unix:/path".
  std::string target;
  // TLS against the system's authorities, or those of `tls_ca_file` (PEM). Files are read again
  // every minute, for the connections made from then on.
  bool tls = false;
  std::string tls_ca_file;
  // Our own certificate, where the server asks for one. Both or none.
  std::string tls_certificate_file;
  std::string tls_key_file;
  // Calls will carry an API key: without TLS only to this machine, unless the network itself is
  // trusted.
  bool sends_key = false;
  bool insecure_allow_remote = false;
};

// Connects lazily, reconnects by itself (0.2 s to 5 s between attempts) and notices a dead peer
// within 30 s. No proxy is used, whatever the environment says. INVALID_ARGUMENT for options that
// do not fit, a key in the clear above all.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const ChannelOptions& options);

// Adds the API key (empty = none) and a deadline from now (infinite = none). Call once per context.
void PrepareCall(grpc::ClientContext& context, absl::string_view api_key, absl::Duration timeout);

}  // namespace anneal
