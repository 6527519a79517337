#pragma once
// Which service the command talks to, and as whom.

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace anneal::cli {

inline constexpr char kLocalFolder[] = ".anneal";

// What the user said before the command; empty = not said.
struct ContextOptions {
  std::string server;
  std::string api_key_file;
  std::string tls_ca_file;
  std::string tls_certificate_file;
  std::string tls_key_file;
  bool tls = false;
  bool insecure_allow_remote = false;
  // A context of the configuration file.
  std::string context;
};

struct Context {
  // "host:port" or "unix:/path"
  std::string server;
  std::string api_key;
  bool tls = false;
  std::string tls_ca_file;
  std::string tls_certificate_file;
  std::string tls_key_file;
  // Send the API key without TLS to other machines, too.
  bool insecure_allow_remote = false;
  // The coordinator sees this machine's files under the same paths.
  bool shares_disk = false;
  // Where the server's address was found, for error messages: "--server", a file.
  std::string source;
};

// In this order: --server; --context NAME in `config_file`; .anneal/context.yaml in `folder` or the
// nearest folder above it; current_context of `config_file`. An API key file given as option wins
// over the context's. NOT_FOUND says how to name a service; INVALID_ARGUMENT a file and line.
absl::StatusOr<Context> FindContext(const ContextOptions& options, const std::string& folder,
                                    const std::string& config_file);

// $XDG_CONFIG_HOME/anneal/config.yaml or ~/.config/anneal/config.yaml.
std::string DefaultConfigFile();

}  // namespace anneal::cli
