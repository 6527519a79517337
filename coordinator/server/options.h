#pragma once
// The configuration of anneal-coordinator.

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/log_format.h"
#include "common/rpc/server.h"
#include "coordinator/api/project_limits.h"
#include "coordinator/fleet/fleet.h"

namespace anneal {

struct CoordinatorOptions {
  // Where clients, workers and operators connect: "host:port", port 0 = any free one; the first two
  // also "unix:/path". Without an admin address there is no admin endpoint.
  std::vector<std::string> listen = {"127.0.0.1:7443"};
  std::string fleet_listen = "127.0.0.1:7444";
  std::string admin_listen = "127.0.0.1:7445";
  // The catalog, on a local or block disk.
  std::string data_dir;
  // What all nodes share. Never holds data_dir.
  std::string storage_root;
  // Folders that file:/// references may name.
  std::vector<std::string> allowed_roots;
  // API keys beside those of the catalog; see ReadCredentialsFile. Empty = none.
  std::string credentials_file;
  // Path of the Unix socket on which KeyService answers without a key. Empty = none.
  std::string admin_socket;
  std::string tls_certificate_file;
  std::string tls_key_file;
  // Workers must show a certificate of this authority. Empty = their API key is enough; with TLS
  // that is refused where other machines reach the fleet's address.
  std::string fleet_client_ca_file;
  // API clients may show a certificate of this authority instead of a key. Empty = they may not.
  std::string client_ca_file;
  // Serve without TLS also where other machines reach it, and with TLS workers without
  // certificates.
  bool insecure_allow_remote = false;
  // Gets the bound addresses as JSON: {"api": "host:port", "fleet": ..., "admin": ...}, the first
  // of the API's. Empty = not written.
  std::string address_file;
  // With less than this free on the disk of the catalog or of the storage root no job is taken.
  int64_t min_free_bytes = int64_t{256} << 20;
  LimitOptions limits;
  // Of each server: the API's addresses, the fleet's, the admin socket.
  RpcQuotas rpc;
  FleetOptions fleet;
  // An elastic job trains for so long before it starts again with more slots.
  absl::Duration grow_after = absl::Minutes(1);
  LogOptions logs;

  // Makes paths absolute and checks what can be checked without touching anything.
  absl::Status Complete();
};

// Nothing if --help or --version was asked for.
absl::StatusOr<std::optional<CoordinatorOptions>> ParseCoordinatorOptions(int argc,
                                                                          const char* const* argv);

}  // namespace anneal
