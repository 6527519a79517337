#pragma once
// A gRPC server as all our programs run it: credentials, limits, keepalive, reflection, health and
// metrics in one place.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/metrics/metrics.h"
#include "common/rpc/served_methods.h"
#include "grpcpp/server.h"
#include "grpcpp/support/server_interceptor.h"

namespace anneal {

// Of one message, either way. Files travel in chunks of at most 1 MiB.
inline constexpr int kMaxMessageBytes = 4 << 20;
inline constexpr int kMaxChunkBytes = 1 << 20;

// The metrics of every server of a program.
struct RpcMetrics {
  explicit RpcMetrics(MetricRegistry& registry);
  Counter requests;
  Counter failures;
  Histogram duration;
  Gauge open;
};

// What clients may take of a server, whoever they are. 0 = no limit.
struct RpcQuotas {
  // Of all connections and the messages under way.
  int64_t memory_bytes = int64_t{1} << 30;
  // That answer calls of the synchronous kind; those that would need more are refused with
  // RESOURCE_EXHAUSTED.
  int threads = 2048;
  // Open at a time on one connection; further calls wait for their turn.
  int connection_streams = 1000;
};

struct ServerOptions {
  // "host:port" (port 0 = any free one) or "unix:/path". A Unix socket gets mode 0600.
  std::string address;
  // PEM files. Both or none; required on TCP unless the host is loopback. They are read again every
  // `tls_reload_seconds`: connections made from then on use what is in them; a pair that does not
  // match is not taken.
  std::string tls_certificate_file;
  std::string tls_key_file;
  // Only clients with a certificate of this authority are let in. Empty = any client.
  std::string tls_client_ca_file;
  // Clients without a certificate are let in, too; one that is shown must still be of the
  // authority.
  bool tls_client_certificate_optional = false;
  unsigned tls_reload_seconds = 60;
  // Serve without TLS on an address that is not loopback, where the network itself is trusted.
  bool insecure_allow_remote = false;
  RpcQuotas quotas;
};

using Interceptors =
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>>;

// Listens from Start until Shutdown or its destructor. Thread-safe.
class RpcServer {
 public:
  // `services`, `metrics` and `clock` must outlive the server. Reflection and grpc.health.v1 are
  // served beside them. The port is never shared with another process. INVALID_ARGUMENT says which
  // option is wrong, UNAVAILABLE that it cannot listen. `interceptors` watch every call of a method
  // that the server has.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(
      const ServerOptions& options, const std::vector<grpc::Service*>& services,
      RpcMetrics& metrics, Clock& clock, Interceptors interceptors = {});
  ~RpcServer();

  // As in the options, with the port that is bound: what clients on this machine connect to.
  const std::string& address() const { return address_; }
  grpc::Server& server() { return *server_; }
  const ServedMethods& methods() const { return *methods_; }

  // Refuses new calls, lets those under way finish for `grace`, then cancels them. May be called
  // twice.
  void Shutdown(absl::Duration grace);

 private:
  RpcServer(std::unique_ptr<grpc::Server> server, std::shared_ptr<const ServedMethods> methods,
            std::string address);

  const std::unique_ptr<grpc::Server> server_;
  const std::shared_ptr<const ServedMethods> methods_;
  const std::string address_;
};

}  // namespace anneal
