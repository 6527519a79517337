#include "common/rpc/server.h"

#include <sys/stat.h>
#include <sys/un.h>

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/rpc/grpc_log.h"
#include "common/rpc/metrics_interceptor.h"
#include "common/rpc/peer_address.h"
#include "common/rpc/pem_file.h"
#include "common/rpc/served_methods.h"
#include "common/rpc/tls_library.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"
#include "grpcpp/server_builder.h"

namespace anneal {
namespace {

constexpr absl::string_view kUnixPrefix = "unix:";

absl::Status CheckAddress(const ServerOptions& options) {
  absl::string_view address = options.address;
  const bool tls = !options.tls_certificate_file.empty();
  if (tls != !options.tls_key_file.empty() || (!tls && !options.tls_client_ca_file.empty())) {
    return absl::InvalidArgumentError("TLS needs both a certificate file and a key file");
  }
  if (absl::ConsumePrefix(&address, kUnixPrefix)) {
    constexpr size_t kMaxPathBytes = sizeof(sockaddr_un::sun_path) - 1;
    if (address.empty() || address.size() > kMaxPathBytes) {
      return absl::InvalidArgumentError(absl::StrCat("the path of Unix socket '", address, "' has ",
                                                     address.size(), " bytes; it must have 1 to ",
                                                     kMaxPathBytes));
    }
    return absl::OkStatus();
  }
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == absl::string_view::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 0 || port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat(
        "address '", address, "' is neither host:port nor unix:/path, for example 127.0.0.1:7443"));
  }
  if (tls || IsLoopbackHost(address.substr(0, colon))) return absl::OkStatus();
  if (!options.insecure_allow_remote) {
    return absl::InvalidArgumentError(absl::StrCat(
        "address ", address,
        " can be reached from other machines: give it TLS files (or --insecure-allow-remote, where "
        "the network itself is trusted)"));
  }
  ANNEAL_LOG(WARNING) << "serving without TLS where other machines can listen in: keys and data "
                         "travel in the clear"
                      << Field("address", address);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeCredentials(
    const ServerOptions& options) {
  if (options.tls_certificate_file.empty()) return grpc::InsecureServerCredentials();
  // gRPC itself only logs what is wrong with a file.
  ANNEAL_RETURN_IF_ERROR(ReadPemFile(options.tls_key_file).status());
  ANNEAL_RETURN_IF_ERROR(ReadPemFile(options.tls_certificate_file).status());
  grpc::experimental::TlsServerCredentialsOptions tls(
      std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
          options.tls_key_file, options.tls_certificate_file, options.tls_client_ca_file,
          options.tls_reload_seconds));
  tls.watch_identity_key_cert_pairs();
  if (!options.tls_client_ca_file.empty()) {
    ANNEAL_RETURN_IF_ERROR(ReadPemFile(options.tls_client_ca_file).status());
    tls.watch_root_certs();
    tls.set_cert_request_type(options.tls_client_certificate_optional
                                  ? GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY
                                  : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(tls);
}

void SetLimits(grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
  // Of the services that hold a thread for each call, those of keys and of the cluster: threads
  // that have answered stay for the next calls instead of ending.
  builder.SetSyncServerOption(grpc::ServerBuilder::SyncServerOption::NUM_CQS, 1);
  builder.SetSyncServerOption(grpc::ServerBuilder::SyncServerOption::MAX_POLLERS, 32);
  // Two servers on one port would share its calls by chance.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Half-open connections are found in 40 s; our clients may ping as often as common/rpc/channel.cc
  // has them do.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
}

void SetQuotas(grpc::ServerBuilder& builder, const RpcQuotas& quotas) {
  grpc::ResourceQuota resources("anneal");
  if (quotas.memory_bytes > 0) resources.Resize(static_cast<size_t>(quotas.memory_bytes));
  if (quotas.threads > 0) resources.SetMaxThreads(quotas.threads);
  builder.SetResourceQuota(resources);
  if (quotas.connection_streams > 0)
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, quotas.connection_streams);
}

// Binds under a umask that lets nobody else in, so that the socket is never open to others, not
// even for an instant.
std::unique_ptr<grpc::Server> BuildPrivate(grpc::ServerBuilder& builder,
                                           const std::string& socket_path) {
  const mode_t old = ::umask(S_IRWXG | S_IRWXO);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  ::umask(old);
  if (server != nullptr) ::chmod(socket_path.c_str(), S_IRUSR | S_IWUSR);
  return server;
}

}  // namespace

RpcMetrics::RpcMetrics(MetricRegistry& registry)
    : requests(registry, {"anneal_rpc_requests_total",
                          "Calls finished, by method and status code.",
                          {"method", "code"}}),
      failures(registry, {"anneal_rpc_failures_total",
                          "Calls that failed for a reason of the service's own: UNKNOWN, "
                          "DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE or DATA_LOSS.",
                          {}}),
      duration(registry,
               {"anneal_rpc_duration_seconds",
                "Time from a unary call's arrival to its status.",
                {"method"}},
               ExponentialBounds(0.0005, 4, 9)),
      open(registry, {"anneal_rpc_open_calls", "Calls under way, streams included.", {"method"}}) {
  // A total that alerts watch begins at 0, so that the first event is a rise.
  failures.Add(0);
}

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(
    const ServerOptions& options, const std::vector<grpc::Service*>& services, RpcMetrics& metrics,
    Clock& clock, Interceptors interceptors) {
  TakeGrpcLogs();
  ANNEAL_RETURN_IF_ERROR(CheckAddress(options));
  ANNEAL_ASSIGN_OR_RETURN(auto credentials, MakeCredentials(options));
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();

  grpc::ServerBuilder builder;
  SetLimits(builder);
  SetQuotas(builder, options.quotas);
  for (grpc::Service* service : services) builder.RegisterService(service);
  const std::shared_ptr<const ServedMethods> methods = CollectServedMethods(builder);
  for (auto& interceptor : interceptors)
    interceptor = ForServedMethods(std::move(interceptor), methods);
  interceptors.push_back(std::make_unique<MetricsInterceptorFactory>(metrics, clock, methods));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));

  int port = 0;
  builder.AddListeningPort(options.address, credentials, &port);
  absl::string_view socket_path = options.address;
  const bool is_unix = absl::ConsumePrefix(&socket_path, kUnixPrefix);
  std::unique_ptr<grpc::Server> server =
      is_unix ? BuildPrivate(builder, std::string(socket_path)) : builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", options.address,
                     ": is it taken, not of this machine, or are the TLS files not fitting?"));
  }
  std::string address = options.address;
  if (!is_unix) address = absl::StrCat(address.substr(0, address.rfind(':')), ":", port);
  return std::unique_ptr<RpcServer>(new RpcServer(std::move(server), methods, std::move(address)));
}

RpcServer::RpcServer(std::unique_ptr<grpc::Server> server,
                     std::shared_ptr<const ServedMethods> methods, std::string address)
    : server_(std::move(server)), methods_(std::move(methods)), address_(std::move(address)) {}

RpcServer::~RpcServer() { Shutdown(absl::ZeroDuration()); }

void RpcServer::Shutdown(absl::Duration grace) {
  if (grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService())
    health->Shutdown();
  server_->Shutdown(gpr_time_from_millis(absl::ToInt64Milliseconds(grace), GPR_TIMESPAN));
}

}  // namespace anneal
