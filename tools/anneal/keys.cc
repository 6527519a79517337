// anneal keys: make, list and revoke API keys.

#include <iostream>
#include <memory>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/base/status.h"
#include "google/protobuf/util/time_util.h"
#include "tools/anneal/command_line.h"
#include "tools/anneal/text.h"

namespace anneal::cli {
namespace {

using Keys = v1::KeyService::StubInterface;
using google::protobuf::util::TimeUtil;

struct NewKey {
  std::string role, project, creator, certificate_subject;
  int days = 0;
};

std::string RoleText(v1::Key::Role role) {
  return absl::AsciiStrToLower(absl::StripPrefix(v1::Key::Role_Name(role), "ROLE_"));
}

std::string ValidityOf(const v1::Key& key, absl::Time now) {
  if (key.has_revoke_time())
    return absl::StrCat("revoked ", FormatAgo(true, key.revoke_time(), now));
  if (!key.has_expire_time()) return "valid";
  const absl::Duration left = ToTime(key.expire_time()) - now;
  return left > absl::ZeroDuration() ? absl::StrCat("expires in ", ShortDuration(left)) : "expired";
}

absl::StatusOr<ExitCode> CreateKey(CommandLine& line, const NewKey& options) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  v1::CreateKeyRequest request;
  v1::Key::Role role = v1::Key::ROLE_UNSPECIFIED;
  v1::Key::Role_Parse(absl::StrCat("ROLE_", absl::AsciiStrToUpper(options.role)), &role);
  request.set_role(role);
  request.set_project(options.project);
  request.set_creator(options.creator);
  request.set_certificate_subject(options.certificate_subject);
  if (options.days > 0) {
    const absl::Time end = Clock::Real().TimeNow() + absl::Hours(24 * options.days);
    *request.mutable_expire_time() = TimeUtil::SecondsToTimestamp(absl::ToUnixSeconds(end));
  }
  ANNEAL_ASSIGN_OR_RETURN(const v1::CreateKeyResponse made,
                          client->Call(&Keys::CreateKey, request));
  if (line.json()) {
    line.PrintJson(made);
    return kOk;
  }
  if (!options.certificate_subject.empty()) {
    std::cout << made.key().name() << " stands for certificates of subject "
              << Printable(options.certificate_subject) << "\n";
    return kOk;
  }
  // A line of a credentials file, so that it can go straight into one.
  std::cout << made.secret() << " " << made.key().project() << " " << made.key().creator() << " "
            << RoleText(made.key().role()) << "\n";
  std::cerr << made.key().name() << " is shown this once: keep the line in a file of mode 600 and "
            << "name it with --api-key-file or in a context\n";
  return kOk;
}

absl::StatusOr<ExitCode> ListKeys(CommandLine& line) {
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  v1::ListKeysRequest request;
  request.set_page_size(1000);
  ANNEAL_ASSIGN_OR_RETURN(const v1::ListKeysResponse response,
                          client->Call(&Keys::ListKeys, request));
  if (line.json()) {
    line.PrintJson(response);
    return kOk;
  }
  Table table({"KEY", "PROJECT", "CREATOR", "ROLE", "MADE", "STATE", "CERTIFICATE"});
  const absl::Time now = Clock::Real().TimeNow();
  for (const v1::Key& key : response.keys()) {
    table.AddRow({std::string(IdOf(key.name())), key.project(), key.creator(), RoleText(key.role()),
                  FormatAgo(key.has_create_time(), key.create_time(), now), ValidityOf(key, now),
                  Printable(key.certificate_subject())});
  }
  std::cout << table.Format();
  return kOk;
}

absl::StatusOr<ExitCode> RevokeKey(CommandLine& line, const std::string& key) {
  // What may be the key itself goes no further and is not shown.
  if (!IsUlid(absl::StripPrefix(key, "keys/"))) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a key is revoked by its name, the 26 characters that `anneal keys` shows under KEY, and "
        "never by the key itself; these ",
        key.size(), " characters are no key's name and were not sent"));
  }
  ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
  v1::RevokeKeyRequest request;
  request.set_name(absl::StrCat("keys/", absl::StripPrefix(key, "keys/")));
  ANNEAL_ASSIGN_OR_RETURN(const v1::Key revoked, client->Call(&Keys::RevokeKey, request));
  if (line.json()) {
    line.PrintJson(revoked);
  } else {
    std::cout << revoked.name() << " of " << revoked.creator() << " is revoked\n";
  }
  return kOk;
}

}  // namespace

void AddKeyCommands(CommandLine& line) {
  CLI::App* keys =
      line.AddCommand(nullptr, "keys", "List API keys", [&line] { return ListKeys(line); });
  auto options = std::make_shared<NewKey>();
  CLI::App* create = line.AddCommand(keys, "create", "Make an API key; it is shown once",
                                     [&line, options] { return CreateKey(line, *options); });
  create->add_option("--role", options->role, "viewer, user, admin or worker")
      ->required()
      ->check(CLI::IsMember({"viewer", "user", "admin", "worker"}));
  create->add_option("--project", options->project, "Project whose jobs and data it reaches")
      ->required();
  create->add_option("--creator", options->creator, "Who holds it")->required();
  create->add_option("--days", options->days, "It expires after so many days (default: never)")
      ->check(CLI::Range(1, 3650));
  create->add_option("--certificate-subject", options->certificate_subject,
                     "Without a secret: for clients that show a certificate of this subject, as "
                     "`openssl x509 -noout -subject -nameopt RFC2253` writes it");
  auto key = std::make_shared<std::string>();
  line.AddCommand(keys, "revoke", "Make a key unknown from the next call on",
                  [&line, key] { return RevokeKey(line, *key); })
      ->add_option("key", *key, "Key, as `anneal keys` lists it")
      ->required();
}

}  // namespace anneal::cli
