#include "common/rpc/channel.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "common/rpc/grpc_log.h"
#include "common/rpc/peer_address.h"
#include "common/rpc/pem_file.h"
#include "common/rpc/server.h"
#include "common/rpc/tls_library.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"
#include "grpcpp/support/channel_arguments.h"

namespace anneal {
namespace {

constexpr unsigned kReloadSeconds = 60;

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeCredentials(
    const ChannelOptions& options) {
  if (!options.tls) return grpc::InsecureChannelCredentials();
  if (options.tls_certificate_file.empty() != options.tls_key_file.empty()) {
    return absl::InvalidArgumentError(
        "a client certificate needs both a certificate file and a key file");
  }
  if (options.tls_ca_file.empty() && options.tls_certificate_file.empty())
    return grpc::SslCredentials(grpc::SslCredentialsOptions());
  // gRPC itself only logs what is wrong with a file.
  for (const std::string* file :
       {&options.tls_ca_file, &options.tls_certificate_file, &options.tls_key_file}) {
    if (!file->empty()) ANNEAL_RETURN_IF_ERROR(ReadPemFile(*file).status());
  }
  grpc::experimental::TlsChannelCredentialsOptions tls;
  tls.set_certificate_provider(std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      options.tls_key_file, options.tls_certificate_file, options.tls_ca_file, kReloadSeconds));
  if (!options.tls_ca_file.empty()) tls.watch_root_certs();
  if (!options.tls_certificate_file.empty()) tls.watch_identity_key_cert_pairs();
  return grpc::experimental::TlsCredentials(tls);
}

// Whether gRPC's target stays on this machine for sure.
bool IsLocal(absl::string_view target) {
  if (absl::StartsWith(target, "unix:") || absl::StartsWith(target, "unix-abstract:")) return true;
  for (const absl::string_view scheme : {"dns:///", "dns:", "ipv4:", "ipv6:"}) {
    if (absl::ConsumePrefix(&target, scheme)) break;
  }
  return IsLoopbackHost(target.substr(0, target.rfind(':')));
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const ChannelOptions& options) {
  TakeGrpcLogs();
  if (options.sends_key && !options.tls && !options.insecure_allow_remote &&
      !IsLocal(options.target)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the API key would travel in the clear to ", options.target,
                     ": use TLS (--tls, or --tls-ca-file for an authority of your own), or say "
                     "--insecure-allow-remote where the network itself is trusted"));
  }
  ANNEAL_ASSIGN_OR_RETURN(auto credentials, MakeCredentials(options));
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  // Servers allow a ping every 10 s (common/rpc/server.cc).
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  // Not a pause, in spite of its name: so long an attempt may take, TCP and TLS together. A far
  // coordinator or a busy one needs more than a moment; one that is not there refuses at once.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5'000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 5'000);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(options.target, credentials, arguments);
}

void PrepareCall(grpc::ClientContext& context, absl::string_view api_key, absl::Duration timeout) {
  if (!api_key.empty()) context.AddMetadata("authorization", absl::StrCat("Bearer ", api_key));
  if (timeout != absl::InfiniteDuration()) {
    context.set_deadline(gpr_time_from_micros(absl::ToInt64Microseconds(timeout), GPR_TIMESPAN));
  }
}

}  // namespace anneal
