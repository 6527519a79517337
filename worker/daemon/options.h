#pragma once
// What anneal-worker is told at its start, by flags. One struct, immutable after Validate.

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/log_format.h"
#include "worker/daemon/accelerator_inventory.h"

namespace anneal {

struct WorkerOptions {
  // "host:port" or "unix:/path" of the coordinator's fleet service.
  std::string coordinator;
  // Unique in the cluster: [a-z0-9][a-z0-9.-]{0,62}. Default: the host's name.
  std::string name;
  // On a local disk: run folders, newest incarnation. Made if missing.
  std::string state_dir;
  // The folder that all nodes see.
  std::string storage_root;
  // Where anneal-prepare and anneal-trainer lie. Default: beside anneal-worker.
  std::string bin_dir;

  InventoryOptions inventory;
  // Lock files of GPUs, shared by all workers of the machine.
  std::string device_lock_dir = "/run/lock";
  int prepare_slots = 1;
  // Keep a loaded trainer waiting for each slot (docs/adr/0007-warm-spares.md).
  bool spares = true;
  // Address that collectives of this node bind to and others reach. Default: the first that is not
  // loopback, else 127.0.0.1.
  std::string data_address;

  // "host:port" of /metrics, /livez and /readyz.
  std::string admin_listen = "127.0.0.1:7446";
  // "host:port" where the keeper, not the daemon, answers liveness probes. Empty = nowhere.
  std::string liveness_listen;
  // Gets {"admin": "host:port"} once it listens. Empty = none.
  std::string address_file;

  // File with the API key on its first line that is no comment; what follows a space is ignored.
  // Empty = no key is sent.
  std::string credentials_file;
  bool tls = false;
  std::string tls_ca_file, tls_certificate_file, tls_key_file;
  // Send the key without TLS to another machine, too.
  bool insecure_allow_remote = false;

  // Of the keeper, the daemon and the programs that they start.
  LogOptions logs;

  // After a task was told to stop: so long until SIGTERM, and as long again until SIGKILL.
  absl::Duration stop_grace = absl::Seconds(5);
  // After SIGTERM tasks may go on for so long, and a coordinator that is away may stay away for so
  // long before they are left untold.
  absl::Duration drain_timeout = absl::Seconds(20);
  // Without a task for so long, and while no job wants what it has, the worker drains and ends, as
  // after SIGTERM. Zero = never.
  absl::Duration exit_when_idle = absl::ZeroDuration();
  // Without a word from the coordinator tasks go on for so long.
  absl::Duration orphan_timeout = absl::Hours(1);
};

// From flags and --config (see common/config/flags.h); what depends on the machine is filled in,
// paths are absolute, everything is checked. INVALID_ARGUMENT names the flag. Nothing when --help
// or --version was asked for and printed.
absl::StatusOr<std::optional<WorkerOptions>> ParseWorkerOptions(int argc, const char* const* argv);

}  // namespace anneal
