#include "worker/daemon/options.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <filesystem>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/config/flags.h"

namespace anneal {
namespace {

constexpr size_t kMaxNameBytes = 63;
// What processes other than trainers take of the worker's memory (docs/operations/sizing.md).
constexpr int64_t kDaemonMemoryBytes = int64_t{100} << 20;  // and the keeper
constexpr int64_t kPrepareMemoryBytes = int64_t{256} << 20;
constexpr int64_t kSpareMemoryBytes = int64_t{60} << 20;

bool IsNameCharacter(char c) {
  return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '.' || c == '-';
}

absl::Status CheckName(const std::string& name) {
  const bool valid = !name.empty() && name.size() <= kMaxNameBytes && name[0] != '.' &&
                     name[0] != '-' && std::all_of(name.begin(), name.end(), IsNameCharacter);
  if (valid) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "--name '", name,
      "': expected a-z, 0-9, '.' and '-', starting with a letter or digit, at most 63"));
}

// The host's name, in small letters, with '-' for what a worker's name may not hold.
std::string HostName() {
  char buffer[HOST_NAME_MAX + 1] = "";
  ::gethostname(buffer, sizeof(buffer) - 1);
  std::string name = absl::AsciiStrToLower(buffer).substr(0, kMaxNameBytes);
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !IsNameCharacter(c); }, '-');
  return name;
}

// The first IPv4 address of an interface that is up and not loopback.
std::string FirstAddress() {
  std::string address = "127.0.0.1";
  ifaddrs* interfaces = nullptr;
  if (::getifaddrs(&interfaces) != 0) return address;
  for (const ifaddrs* i = interfaces; i != nullptr; i = i->ifa_next) {
    const bool usable = (i->ifa_flags & IFF_UP) != 0 && (i->ifa_flags & IFF_LOOPBACK) == 0;
    if (!usable || i->ifa_addr == nullptr || i->ifa_addr->sa_family != AF_INET) continue;
    char text[INET_ADDRSTRLEN] = "";
    ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(i->ifa_addr)->sin_addr, text,
                sizeof(text));
    address = text;
    break;
  }
  ::freeifaddrs(interfaces);
  return address;
}

absl::Status MakeAbsolute(const char* flag, std::string& path) {
  if (path.empty()) return absl::InvalidArgumentError(absl::StrCat("--", flag, " is required"));
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  if (error)
    return absl::InvalidArgumentError(absl::StrCat("--", flag, " ", path, ": ", error.message()));
  path = absolute.lexically_normal().string();
  if (path.size() > 1 && path.back() == '/') path.pop_back();
  return absl::OkStatus();
}

absl::Status CompleteAndCheck(WorkerOptions& options) {
  if (options.coordinator.empty()) return absl::InvalidArgumentError("--coordinator is required");
  if (options.inventory.require_gpus && !options.inventory.use_gpus)
    return absl::InvalidArgumentError("--require-gpus and --gpus=false: leave one of them out");
  if (options.name.empty()) options.name = HostName();
  ANNEAL_RETURN_IF_ERROR(CheckName(options.name));
  if (options.bin_dir.empty()) {
    std::error_code error;
    options.bin_dir = std::filesystem::read_symlink("/proc/self/exe", error).parent_path().string();
  }
  ANNEAL_RETURN_IF_ERROR(MakeAbsolute("bin-dir", options.bin_dir));
  ANNEAL_RETURN_IF_ERROR(MakeAbsolute("state-dir", options.state_dir));
  ANNEAL_RETURN_IF_ERROR(MakeAbsolute("storage-root", options.storage_root));
  ANNEAL_RETURN_IF_ERROR(MakeAbsolute("device-lock-dir", options.device_lock_dir));
  options.inventory.reserved_memory_bytes =
      kDaemonMemoryBytes + options.prepare_slots * kPrepareMemoryBytes;
  options.inventory.reserved_memory_bytes_per_slot = options.spares ? kSpareMemoryBytes : 0;
  if (options.data_address.empty()) options.data_address = FirstAddress();
  in6_addr unused;
  if (::inet_pton(AF_INET, options.data_address.c_str(), &unused) != 1 &&
      ::inet_pton(AF_INET6, options.data_address.c_str(), &unused) != 1) {
    return absl::InvalidArgumentError(absl::StrCat("--data-address '", options.data_address,
                                                   "': expected an IP address, not a name"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::optional<WorkerOptions>> ParseWorkerOptions(int argc, const char* const* argv) {
  constexpr int kMany = 1024;
  WorkerOptions options;
  Flags flags("anneal-worker",
              "Runs fine-tuning jobs on this machine. SIGTERM drains, SIGINT stops now, SIGHUP "
              "replaces the daemon.");
  flags.Text("coordinator", &options.coordinator,
             "Fleet address of the coordinator: host:port or unix:/path.");
  flags.Text("name", &options.name,
             "Name of this worker, unique in the cluster. Default: the host's name.");
  flags.Text("state-dir", &options.state_dir,
             "Folder on a local disk for what outlives a restart.");
  flags.Text("storage-root", &options.storage_root,
             "Folder that all nodes and the coordinator share.");
  flags.Text("bin-dir", &options.bin_dir,
             "Where anneal-prepare and anneal-trainer lie. Default: beside this program.");
  flags.Integer("cpu-slots", &options.inventory.cpu_slots,
                "Shares of CPU cores to lend. -1: one if there is no GPU.", -1, kMany);
  flags.Integer("threads-per-slot", &options.inventory.threads_per_slot,
                "Threads of a CPU slot. 0: the usable processors divided by the slots.", 0, kMany);
  flags.Bytes(
      "slot-memory", &options.inventory.slot_memory_bytes,
      "Memory that the trainer of a CPU slot may take: it is ended before it takes more. "
      "0: the usable memory divided by the slots, less what the worker's other processes need.");
  flags.Switch("gpus", &options.inventory.use_gpus, "Lend the machine's GPUs.");
  flags.Switch("require-gpus", &options.inventory.require_gpus,
               "Lend nothing before a GPU is found: without one the worker is not ready, says what "
               "is missing and looks again, instead of lending CPU cores.");
  flags.Text("nvml-library", &options.inventory.nvml_library,
             "NVIDIA's management library; not there means no GPUs.");
  flags.Text("device-lock-dir", &options.device_lock_dir,
             "Folder for lock files of GPUs, shared by all workers here.");
  flags.Integer("prepare-slots", &options.prepare_slots, "Data sets to prepare at the same time.",
                0, kMany);
  flags.Switch(
      "spares", &options.spares,
      "Keep a loaded trainer waiting for each slot, so that jobs go on sooner after a fault.");
  flags.Text("data-address", &options.data_address,
             "IP address for collectives between nodes. Default: the first that is not loopback.");
  flags.Text("admin-listen", &options.admin_listen,
             "host:port of /metrics, /livez and /readyz; port 0 is any free one.");
  flags.Text(
      "liveness-listen", &options.liveness_listen,
      "host:port of the keeper's own /livez, which says nothing of the daemon. Empty: none.");
  flags.Text("address-file", &options.address_file,
             "Gets {\"admin\": \"host:port\"} once it listens.");
  flags.Text("credentials-file", &options.credentials_file,
             "File that starts with this worker's API key.");
  flags.Switch("tls", &options.tls, "Reach the coordinator with TLS.");
  flags.Text("tls-ca-file", &options.tls_ca_file,
             "PEM file of the authority to trust. Default: the system's.");
  flags.Text("tls-certificate-file", &options.tls_certificate_file,
             "PEM file with this worker's certificate.");
  flags.Text("tls-key-file", &options.tls_key_file, "PEM file with the certificate's key.");
  flags.Switch("insecure-allow-remote", &options.insecure_allow_remote,
               "Send the API key without TLS to a coordinator on another machine, where the "
               "network itself is trusted.");
  flags.Duration("stop-grace", &options.stop_grace,
                 "From being told to stop to SIGTERM, and again to SIGKILL.");
  flags.Duration(
      "drain-timeout", &options.drain_timeout,
      "How long tasks may go on after SIGTERM, and how long a coordinator that is away is "
      "waited for to be told how they ended.");
  flags.Duration(
      "exit-when-idle", &options.exit_when_idle,
      "Drain and end after so long without a task, so that nobody parks GPUs; not while jobs wait "
      "for slots of this kind. 0: never.");
  flags.Duration("orphan-timeout", &options.orphan_timeout,
                 "How long tasks go on without a word from the coordinator.");
  flags.Text("log-format", &options.logs.format,
             "How log lines look: text (key=value pairs) or json.");
  flags.Text("log-level", &options.logs.level,
             "Log lines of less weight are not written: debug, info, warning or error.");
  ANNEAL_ASSIGN_OR_RETURN(const bool go_on, flags.Parse(argc, argv));
  if (!go_on) return std::nullopt;
  ANNEAL_RETURN_IF_ERROR(CompleteAndCheck(options));
  return options;
}

}  // namespace anneal
