#include "coordinator/server/options.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/config/flags.h"
#include "common/rpc/peer_address.h"

namespace anneal {
namespace {

namespace fs = std::filesystem;

absl::Status MakeAbsolute(absl::string_view flag, std::string* path) {
  if (path->empty()) return absl::InvalidArgumentError(absl::StrCat("--", flag, " is required"));
  std::error_code error;
  // Follows symbolic links in the part that exists, so that "the same folder" can be told.
  const fs::path absolute = fs::weakly_canonical(fs::absolute(*path, error), error);
  if (error)
    return absl::InvalidArgumentError(absl::StrCat("--", flag, " ", *path, ": ", error.message()));
  *path = absolute.string();
  if (path->size() > 1 && path->back() == '/') path->pop_back();
  return absl::OkStatus();
}

constexpr int kMaxRate = 1'000'000;

void AddLimits(Flags& flags, LimitOptions* limits) {
  flags.Integer("max-key-request-rate", &limits->key_request_rate,
                "Calls a second that one API key or certificate may keep up; five seconds' worth "
                "may come at once. 0: no limit.",
                0, kMaxRate);
  flags.Integer("max-project-request-rate", &limits->project_request_rate,
                "The same for all callers of a project together. 0: no limit.", 0, kMaxRate);
  flags.Integer("max-project-streams", &limits->project_streams,
                "Jobs watched, logs followed, uploads and downloads that a project may have open "
                "at a time. 0: no limit.",
                0, kMaxRate);
  flags.Integer("max-project-transfers", &limits->project_transfers,
                "Up- and downloads that a project may have under way at a time, of 32 in all. 0: "
                "all of them.",
                0, kMaxRate);
  flags.Bytes("max-project-uploads", &limits->project_upload_bytes,
              "Files that a project may have, unfinished uploads included. 0: no limit.");
  flags.Bytes("max-project-storage", &limits->project_storage_bytes,
              "Files, models, checkpoints and outputs that a project may have. 0: no limit.");
  flags.Integer("max-project-jobs", &limits->project_jobs,
                "Jobs of a project that have not ended. 0: no limit.", 0, 10'000'000);
  flags.Integer("max-failed-authentication-rate", &limits->failed_authentication_rate,
                "Calls a second without a valid API key or certificate that one host may keep up. "
                "0: no limit.",
                0, kMaxRate);
}

void AddQuotas(Flags& flags, RpcQuotas* rpc) {
  flags.Bytes("rpc-memory", &rpc->memory_bytes,
              "What connections and messages under way may hold in each server. With more, new "
              "calls are refused. 0: no limit.");
  flags.Integer("rpc-threads", &rpc->threads,
                "Threads that answer calls in each server. With more to do, calls are refused. 0: "
                "no limit.",
                0, 100'000);
  flags.Integer("rpc-connection-streams", &rpc->connection_streams,
                "Calls that one connection may have open at a time; its further ones wait. 0: no "
                "limit.",
                0, 1'000'000);
}

bool IsWithin(const fs::path& path, const fs::path& folder) {
  return std::mismatch(folder.begin(), folder.end(), path.begin(), path.end()).first ==
         folder.end();
}

// Whether other machines reach "host:port" or "unix:/path".
bool IsRemote(absl::string_view address) {
  return !absl::StartsWith(address, "unix:") &&
         !IsLoopbackHost(address.substr(0, address.rfind(':')));
}

}  // namespace

absl::Status CoordinatorOptions::Complete() {
  ANNEAL_RETURN_IF_ERROR(MakeAbsolute("data-dir", &data_dir));
  ANNEAL_RETURN_IF_ERROR(MakeAbsolute("storage-root", &storage_root));
  for (std::string& root : allowed_roots)
    ANNEAL_RETURN_IF_ERROR(MakeAbsolute("allowed-root", &root));
  if (IsWithin(data_dir, storage_root)) {
    return absl::InvalidArgumentError(absl::StrCat("--data-dir ", data_dir,
                                                   " lies in --storage-root ", storage_root,
                                                   ": SQLite must not lie on a shared file system; "
                                                   "give it a folder on a local or block disk"));
  }
  if (credentials_file.empty() && admin_socket.empty()) {
    return absl::InvalidArgumentError(
        "nobody could ever call: give a --credentials-file, or an --admin-socket to make API keys");
  }
  if (listen.empty()) return absl::InvalidArgumentError("--listen is required");
  if (!tls_certificate_file.empty() && fleet_client_ca_file.empty() && IsRemote(fleet_listen) &&
      !insecure_allow_remote) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--fleet-listen ", fleet_listen,
        " can be reached from other machines, and no certificate is asked of workers: give "
        "--fleet-client-ca-file, the authority of theirs (or --insecure-allow-remote, where the "
        "network itself is trusted and a worker's key is enough)"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<CoordinatorOptions>> ParseCoordinatorOptions(int argc,
                                                                          const char* const* argv) {
  CoordinatorOptions options;
  Flags flags("anneal-coordinator",
              "Takes fine-tuning jobs, decides where they run, and remembers everything.");
  flags.TextList("listen", &options.listen,
                 "Address of the API: host:port or unix:/path. May be given several times.");
  flags.Text("fleet-listen", &options.fleet_listen,
             "Address for workers: host:port or unix:/path.");
  flags.Text("admin-listen", &options.admin_listen,
             "host:port of /metrics, /livez and /readyz, plain HTTP. Empty: none.");
  flags.Text("data-dir", &options.data_dir, "Folder of the catalog, on a local or block disk.");
  flags.Text("storage-root", &options.storage_root,
             "Folder that the coordinator and all nodes share.");
  flags.TextList("allowed-root", &options.allowed_roots,
                 "Folder that file:/// references may name. May be given several times.");
  flags.Text("credentials-file", &options.credentials_file,
             "API keys, one `KEY PROJECT CREATOR [ROLE]` a line; role: viewer, user (default), "
             "admin or worker.");
  flags.Text("admin-socket", &options.admin_socket,
             "Unix socket on which the account that runs this program makes and revokes API keys "
             "(`anneal --server unix:PATH keys`). Empty: none.");
  flags.Text("tls-certificate-file", &options.tls_certificate_file,
             "PEM certificate chain of this server.");
  flags.Text("tls-key-file", &options.tls_key_file, "PEM key of the certificate.");
  flags.Text("fleet-client-ca-file", &options.fleet_client_ca_file,
             "PEM authority whose certificates workers must show.");
  flags.Text("client-ca-file", &options.client_ca_file,
             "PEM authority whose certificates API clients may show instead of a key (`anneal keys "
             "create --certificate-subject`). Empty: keys only.");
  flags.Switch("insecure-allow-remote", &options.insecure_allow_remote,
               "Serve without TLS on addresses that are not loopback, and let workers in from "
               "there without a certificate.");
  flags.Text("address-file", &options.address_file,
             "Gets the bound addresses as JSON once all of them listen.");
  flags.Bytes(
      "min-free", &options.min_free_bytes,
      "With less than this free on the disk of --data-dir or --storage-root no job is taken.");
  AddLimits(flags, &options.limits);
  AddQuotas(flags, &options.rpc);
  flags.Duration("worker-lease", &options.fleet.lease,
                 "A worker not heard from for so long is lost.", absl::Seconds(1));
  flags.Duration("start-grace", &options.fleet.start_grace,
                 "After a start no worker is lost before this has passed.");
  flags.Duration("grow-after", &options.grow_after,
                 "An elastic job trains for so long before it starts again with more slots.");
  flags.Text("log-format", &options.logs.format,
             "How log lines look: text (key=value pairs) or json.");
  flags.Text("log-level", &options.logs.level,
             "Log lines of less weight are not written: debug, info, warning or error.");
  ANNEAL_ASSIGN_OR_RETURN(const bool run, flags.Parse(argc, argv));
  if (!run) return std::optional<CoordinatorOptions>();
  ANNEAL_RETURN_IF_ERROR(options.Complete());
  return std::optional<CoordinatorOptions>(std::move(options));
}

}  // namespace anneal
