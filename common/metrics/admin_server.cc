#include "common/metrics/admin_server.h"

#include <arpa/inet.h>
#include <civetweb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/thread.h"

namespace anneal {
namespace {

// Probes and one or two scrapers; more would only cost memory.
constexpr const char* kThreads = "2";
constexpr const char* kRequestTimeoutMs = "5000";

int Reply(mg_connection* connection, int code, absl::string_view reason,
          absl::string_view content_type, absl::string_view body) {
  const std::string head =
      absl::StrCat("HTTP/1.1 ", code, " ", reason, "\r\nContent-Type: ", content_type,
                   "\r\nContent-Length: ", body.size(),
                   "\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n");
  mg_write(connection, head.data(), head.size());
  if (absl::string_view(mg_get_request_info(connection)->request_method) != "HEAD") {
    mg_write(connection, body.data(), body.size());
  }
  return code;
}

int ReplyProbe(mg_connection* connection, const AdminServer::Probe& probe) {
  const absl::Status status = probe ? probe() : absl::OkStatus();
  if (status.ok()) return Reply(connection, 200, "OK", "text/plain; charset=utf-8", "ok\n");
  return Reply(connection, 503, "Service Unavailable", "text/plain; charset=utf-8",
               absl::StrCat(status.ToString(), "\n"));
}

// Connects to this machine's `port` and leaves at once.
void Connect(int port) {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  // Nobody need answer: where nothing listens on the loopback address, stopping takes its 2 s.
  [[maybe_unused]] const int ignored =
      ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof(to));
}

}  // namespace

AdminServer::AdminServer(Options options, const MetricRegistry& registry)
    : options_(std::move(options)), registry_(registry) {}

absl::StatusOr<std::unique_ptr<AdminServer>> AdminServer::Start(Options options,
                                                                const MetricRegistry& registry) {
  const size_t colon = options.address.rfind(':');
  int port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(options.address.substr(colon + 1), &port) ||
      port < 0 || port > 65535 || absl::StrContains(options.address, ",")) {
    return absl::InvalidArgumentError(absl::StrCat(
        "admin address '", options.address, "' is not host:port, for example 127.0.0.1:7445"));
  }
  std::unique_ptr<AdminServer> server(new AdminServer(std::move(options), registry));
  const std::string& address = server->options_.address;

  mg_init_library(0);
  // Keeps civetweb's messages off standard error; what matters comes back as a Status.
  mg_callbacks callbacks = {};
  callbacks.log_message = [](const mg_connection*, const char*) { return 1; };
  const char* settings[] = {
      "listening_ports", address.c_str(),     "num_threads", kThreads, "request_timeout_ms",
      kRequestTimeoutMs, "enable_keep_alive", "no",          nullptr};
  server->context_ = mg_start(&callbacks, server.get(), settings);
  if (server->context_ == nullptr) {
    mg_exit_library();
    return absl::UnavailableError(
        absl::StrCat("cannot listen on admin address ", address,
                     ": is the port taken, or the address not of this machine?"));
  }
  mg_server_port bound = {};
  if (mg_get_server_ports(server->context_, 1, &bound) < 1) {
    return absl::InternalError(absl::StrCat("no port bound for admin address ", address));
  }
  server->port_ = bound.port;
  server->address_ = absl::StrCat(address.substr(0, address.rfind(':')), ":", bound.port);

  mg_set_request_handler(
      server->context_, "/**",
      [](mg_connection* connection, void* self) {
        const auto& server = *static_cast<const AdminServer*>(self);
        const mg_request_info* request = mg_get_request_info(connection);
        const absl::string_view method = request->request_method;
        const absl::string_view path = request->local_uri;
        if (method != "GET" && method != "HEAD") {
          return Reply(connection, 405, "Method Not Allowed", "text/plain", "only GET\n");
        }
        if (path == "/metrics") {
          return Reply(connection, 200, "OK", "text/plain; version=0.0.4; charset=utf-8",
                       server.registry_.Scrape());
        }
        if (path == "/livez") return ReplyProbe(connection, server.options_.live);
        if (path == "/readyz") return ReplyProbe(connection, server.options_.ready);
        return Reply(connection, 404, "Not Found", "text/plain", "/metrics /livez /readyz\n");
      },
      server.get());
  return server;
}

AdminServer::~AdminServer() {
  if (context_ == nullptr) return;
  // civetweb's listening thread looks up every 2 s, or when somebody connects.
  std::atomic<bool> stopped = false;
  Thread caller("admin-stop", [this, &stopped] {
    while (!stopped) {
      Connect(port_);
      Clock::Real().Sleep(absl::Milliseconds(5));
    }
  });
  mg_stop(context_);
  stopped = true;
  caller.Join();
  mg_exit_library();
}

}  // namespace anneal
