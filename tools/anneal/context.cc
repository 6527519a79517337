#include "tools/anneal/context.h"

#include <cstdlib>
#include <filesystem>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "anneal/internal/cli_config.pb.h"
#include "common/base/status.h"
#include "common/rpc/authentication.h"
#include "common/spec/issues.h"
#include "common/spec/yaml_loader.h"

namespace anneal::cli {
namespace {

namespace fs = std::filesystem;

absl::Status LoadConfigFile(const std::string& path, google::protobuf::Message* message) {
  const std::vector<v1::Issue> issues = spec::LoadYamlFile(path, message);
  if (issues.empty()) return absl::OkStatus();
  std::vector<std::string> lines;
  for (const v1::Issue& issue : issues) lines.push_back(spec::FormatIssue(issue));
  return absl::InvalidArgumentError(absl::StrJoin(lines, "\n"));
}

// The first key of the file: what a client sends.
absl::StatusOr<std::string> ReadApiKey(const std::string& path) {
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<Credential> credentials, ReadCredentialsFile(path));
  return credentials.front().key;
}

std::string BesideFile(const std::string& file, const std::string& path) {
  return path.empty() ? "" : (fs::path(file).parent_path() / path).lexically_normal().string();
}

absl::StatusOr<Context> FromFile(const internal::CliContext& found, const std::string& file) {
  if (found.server().empty())
    return absl::InvalidArgumentError(absl::StrCat(file, ": server: names no address"));
  Context context{.server = found.server(),
                  .tls = found.tls(),
                  .tls_ca_file = BesideFile(file, found.tls_ca_file()),
                  .tls_certificate_file = BesideFile(file, found.tls_certificate_file()),
                  .tls_key_file = BesideFile(file, found.tls_key_file()),
                  .insecure_allow_remote = found.insecure_allow_remote(),
                  .shares_disk = found.shares_disk(),
                  .source = file};
  if (!found.api_key_file().empty()) {
    ANNEAL_ASSIGN_OR_RETURN(context.api_key, ReadApiKey(BesideFile(file, found.api_key_file())));
  }
  return context;
}

// "" if there is none.
std::string FindLocalContextFile(const std::string& folder) {
  std::error_code ignored;
  for (fs::path at = fs::absolute(folder, ignored);; at = at.parent_path()) {
    const fs::path file = at / kLocalFolder / "context.yaml";
    if (fs::exists(file, ignored)) return file.string();
    if (at == at.parent_path()) return "";
  }
}

absl::StatusOr<Context> FromConfigFile(const std::string& config_file, const std::string& wanted) {
  internal::CliConfig config;
  ANNEAL_RETURN_IF_ERROR(LoadConfigFile(config_file, &config));
  const std::string& name = wanted.empty() ? config.current_context() : wanted;
  std::vector<std::string> names;
  for (const internal::CliContext& context : config.contexts()) {
    if (!name.empty() && context.name() == name) return FromFile(context, config_file);
    names.push_back(context.name());
  }
  if (name.empty()) {
    return absl::NotFoundError(absl::StrCat(config_file,
                                            " sets no current_context; choose one with --context (",
                                            spec::SuggestionHint("", names), ")"));
  }
  return absl::NotFoundError(absl::StrCat(config_file, " has no context '", name, "' (",
                                          spec::SuggestionHint(name, names), ")"));
}

absl::StatusOr<Context> FindBaseContext(const ContextOptions& options, const std::string& folder,
                                        const std::string& config_file) {
  if (!options.server.empty()) return Context{.server = options.server, .source = "--server"};
  if (!options.context.empty()) return FromConfigFile(config_file, options.context);
  const std::string local = FindLocalContextFile(folder);
  if (!local.empty()) {
    internal::CliContext found;
    ANNEAL_RETURN_IF_ERROR(LoadConfigFile(local, &found));
    return FromFile(found, local);
  }
  std::error_code ignored;
  if (fs::exists(config_file, ignored)) return FromConfigFile(config_file, "");
  return absl::NotFoundError(
      "no service is known here: start one with `anneal up`, or name one with --server HOST:PORT "
      "--api-key-file FILE, or in " +
      config_file);
}

}  // namespace

absl::StatusOr<Context> FindContext(const ContextOptions& options, const std::string& folder,
                                    const std::string& config_file) {
  ANNEAL_ASSIGN_OR_RETURN(Context context, FindBaseContext(options, folder, config_file));
  if (!options.api_key_file.empty()) {
    ANNEAL_ASSIGN_OR_RETURN(context.api_key, ReadApiKey(options.api_key_file));
  }
  if (!options.tls_ca_file.empty()) context.tls_ca_file = options.tls_ca_file;
  if (!options.tls_certificate_file.empty() || !options.tls_key_file.empty()) {
    context.tls_certificate_file = options.tls_certificate_file;
    context.tls_key_file = options.tls_key_file;
  }
  if (options.tls || !options.tls_ca_file.empty() || !options.tls_certificate_file.empty())
    context.tls = true;
  if (options.insecure_allow_remote) context.insecure_allow_remote = true;
  return context;
}

std::string DefaultConfigFile() {
  const char* config_home = std::getenv("XDG_CONFIG_HOME");
  if (config_home != nullptr && config_home[0] != '\0')
    return absl::StrCat(config_home, "/anneal/config.yaml");
  const char* home = std::getenv("HOME");
  return absl::StrCat(home != nullptr ? home : "", "/.config/anneal/config.yaml");
}

}  // namespace anneal::cli
