#pragma once
// The plain-HTTP endpoint of a program for operators: /metrics (Prometheus), /livez and /readyz
// (200 or 503 with a reason).
//
// It is civetweb itself and not prometheus-cpp's Exposer, which answers every path with metrics and
// cannot serve probes. The endpoint tells no secret but has no authentication either: bind it to an
// address that only operators reach.

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/metrics/metrics.h"

struct mg_context;

namespace anneal {

// Started by Start, stopped by its destructor, which takes up to 2 s: so often civetweb looks up.
// Serves from threads of its own.
class AdminServer {
 public:
  // Called from several threads at once; must not block. OK = 200, otherwise 503 with the status as
  // text.
  using Probe = std::function<absl::Status()>;

  struct Options {
    // "host:port", e.g. "127.0.0.1:7445". Port 0 = any free port.
    std::string address;
    // Whether the program should go on living; a false answer gets it restarted. Unset = always OK.
    Probe live;
    // Whether work should be sent here.
    Probe ready;
  };
  // `registry` must outlive the server. INVALID_ARGUMENT for an address it cannot read, UNAVAILABLE
  // when it cannot listen.
  static absl::StatusOr<std::unique_ptr<AdminServer>> Start(Options options,
                                                            const MetricRegistry& registry);
  ~AdminServer();
  AdminServer(const AdminServer&) = delete;
  AdminServer& operator=(const AdminServer&) = delete;

  // "host:port" with the port that is bound.
  const std::string& address() const { return address_; }

 private:
  AdminServer(Options options, const MetricRegistry& registry);

  const Options options_;
  const MetricRegistry& registry_;
  std::string address_;
  int port_ = 0;
  mg_context* context_ = nullptr;
};

}  // namespace anneal
