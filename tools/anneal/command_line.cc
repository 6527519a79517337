#include "tools/anneal/command_line.h"

#include <filesystem>
#include <iostream>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/base/version.h"
#include "common/rpc/status.h"
#include "common/spec/issues.h"
#include "common/spec/message_json.h"
#include "tools/anneal/text.h"

namespace anneal::cli {
namespace {

void PrintError(const absl::Status& status) {
  std::cerr << "error: " << Printable(status.message()) << "\n";
  for (const FieldViolation& violation : FieldViolationsOf(status)) {
    // The message names the first one.
    if (absl::StartsWith(status.message(),
                         absl::StrCat(violation.field, ": ", violation.description)))
      continue;
    std::cerr << "  " << Printable(violation.field) << ": " << Printable(violation.description)
              << "\n";
  }
  if (absl::IsUnauthenticated(status)) {
    std::cerr << "the API key is missing or not known to this service; give another with "
                 "--api-key-file\n";
  }
  if (const std::string id = RequestIdOf(status); !id.empty())
    std::cerr << "request " << Printable(id) << "\n";
}

}  // namespace

CommandLine::CommandLine()
    : app_("Anneal fine-tunes language models on your own machines.", "anneal") {
  app_.require_subcommand(1);
  app_.set_help_all_flag("--help-all", "Show the help of every command");
  app_.set_version_flag("--version", absl::StrCat("anneal ", Version()));
  app_.add_option("--server", context_options_.server,
                  "Coordinator to talk to: host:port or unix:/path");
  app_.add_option("--api-key-file", context_options_.api_key_file,
                  "Credentials file whose first key is sent");
  app_.add_option("--context", context_options_.context,
                  "Context of ~/.config/anneal/config.yaml to use");
  app_.add_flag("--tls", context_options_.tls, "Use TLS");
  app_.add_option("--tls-ca-file", context_options_.tls_ca_file,
                  "Authorities to trust instead of the system's (PEM)");
  app_.add_option("--tls-certificate-file", context_options_.tls_certificate_file,
                  "Certificate to be known by instead of an API key (PEM)");
  app_.add_option("--tls-key-file", context_options_.tls_key_file, "Key of that certificate (PEM)");
  app_.add_flag("--insecure-allow-remote", context_options_.insecure_allow_remote,
                "Send the API key without TLS to other machines, where the network is trusted");
  app_.add_option("-o,--output", output_, "table for people, json for programs")
      ->check(CLI::IsMember({"table", "json"}))
      ->default_str("table");
  app_.footer(
      "JOB is an id, a unique beginning of one, a display name, or @last.\n"
      "Exit codes: 0 ok, 1 failed, 2 bad input, 3 cancelled, 4 service unreachable, 5 denied, "
      "6 doctor found something that fails.");
}

CLI::App* CommandLine::AddCommand(CLI::App* parent, const std::string& name,
                                  const std::string& help, Action action) {
  CLI::App* command = (parent != nullptr ? parent : &app_)->add_subcommand(name, help);
  command->fallthrough();
  command->callback([this, command, action = std::move(action)] {
    if (command->get_subcommands().empty()) chosen_ = action;
  });
  return command;
}

int CommandLine::Run(int argc, const char* const* argv) {
  try {
    app_.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    const bool is_error = app_.exit(e) != 0;
    if (is_error && app_.get_subcommands().empty()) SuggestCommand();
    return is_error ? kBadInput : kOk;
  }
  const absl::StatusOr<ExitCode> code = chosen_();
  std::cout.flush();
  if (code.ok()) return *code;
  PrintError(code.status());
  return ExitCodeOf(code.status());
}

void CommandLine::SuggestCommand() const {
  std::vector<std::string> names;
  for (const CLI::App* command : app_.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(command->get_name());
  }
  for (const std::string& word : app_.remaining()) {
    const std::string near = spec::ClosestMatch(word, names);
    if (!near.empty())
      std::cerr << "'" << Printable(word) << "' is no command; did you mean " << near << "?\n";
  }
}

absl::StatusOr<Client*> CommandLine::client() {
  if (client_ == nullptr) {
    std::error_code ignored;
    ANNEAL_ASSIGN_OR_RETURN(
        const Context context,
        FindContext(context_options_, std::filesystem::current_path(ignored).string(),
                    DefaultConfigFile()));
    ANNEAL_ASSIGN_OR_RETURN(client_, Client::Connect(context));
  }
  return client_.get();
}

void CommandLine::PrintJson(const google::protobuf::Message& message) const {
  std::cout << DumpJson(spec::MessageToJson(message)) << "\n";
}

}  // namespace anneal::cli
