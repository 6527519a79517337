#include "common/rpc/authentication.h"

#include <sys/stat.h>

#include <fstream>
#include <iterator>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/log.h"
#include "common/base/sha256.h"
#include "common/base/status.h"

namespace anneal {
namespace {

constexpr size_t kMinKeyBytes = 20;
constexpr size_t kMaxKeyBytes = 256;
constexpr size_t kMaxFileBytes = 1 << 20;
constexpr size_t kMaxSubjectBytes = 512;

struct NamedRole {
  Role role;
  absl::string_view name;
};
constexpr NamedRole kRoles[] = {{Role::kViewer, "viewer"},
                                {Role::kUser, "user"},
                                {Role::kAdmin, "admin"},
                                {Role::kWorker, "worker"}};

absl::string_view WhatNeeds(Right right) {
  switch (right) {
    case Right::kRead:
      return "reading needs role viewer, user or admin";
    case Right::kWrite:
      return "this call needs role user or admin";
    case Right::kOperate:
      return "this call needs role admin";
    case Right::kWork:
      return "joining the fleet needs role worker or admin";
  }
  return "";
}

// The credentials of `text`, which errors call `path`.
absl::StatusOr<std::vector<Credential>> ParseCredentials(absl::string_view text,
                                                         const std::string& path) {
  std::vector<Credential> credentials;
  std::set<absl::string_view> seen;
  int line_number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_number;
    line = line.substr(0, line.find('#'));
    const std::vector<absl::string_view> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (words.empty()) continue;
    const std::string where = absl::StrCat(path, ":", line_number, ": ");
    if (words.size() != 3 && words.size() != 4)
      return absl::InvalidArgumentError(
          absl::StrCat(where, "a line is KEY PROJECT CREATOR [ROLE]"));
    if (words[0].size() < kMinKeyBytes || words[0].size() > kMaxKeyBytes) {
      return absl::InvalidArgumentError(absl::StrCat(where, "a key has ", kMinKeyBytes, " to ",
                                                     kMaxKeyBytes, " characters, this one ",
                                                     words[0].size()));
    }
    if (!IsIdentityName(words[1]) || !IsIdentityName(words[2])) {
      return absl::InvalidArgumentError(absl::StrCat(
          where, "project and creator are [A-Za-z0-9._@-]{1,64}, without a dot in front"));
    }
    const std::optional<Role> role = words.size() == 4 ? RoleFrom(words[3]) : Role::kUser;
    if (!role.has_value())
      return absl::InvalidArgumentError(
          absl::StrCat(where, "the role is viewer, user, admin or worker"));
    if (!seen.insert(words[0]).second)
      return absl::InvalidArgumentError(absl::StrCat(where, "this key occurs twice"));
    credentials.push_back(
        {std::string(words[0]), {std::string(words[1]), std::string(words[2]), *role}});
  }
  if (credentials.empty())
    return absl::InvalidArgumentError(absl::StrCat("credentials file ", path, " holds no key"));
  return credentials;
}

absl::Status Unauthenticated(absl::string_view message, absl::string_view reason) {
  return WithReason(absl::UnauthenticatedError(message), reason);
}

// The key that the call carries.
absl::StatusOr<absl::string_view> KeyOf(const grpc::ServerContextBase& context) {
  const auto [begin, end] = context.client_metadata().equal_range("authorization");
  if (begin == end) {
    return Unauthenticated("no API key: send metadata 'authorization: Bearer KEY'",
                           "API_KEY_MISSING");
  }
  absl::string_view value(begin->second.data(), begin->second.size());
  if (std::next(begin) != end || !absl::ConsumePrefix(&value, "Bearer ") ||
      value.size() > kMaxKeyBytes) {
    return Unauthenticated("metadata 'authorization' must be given once, as 'Bearer KEY'",
                           "API_KEY_MALFORMED");
  }
  return value;
}

}  // namespace

absl::StatusOr<std::vector<Credential>> ReadCredentialsFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot open credentials file ", path));
  std::string text(kMaxFileBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kMaxFileBytes) {
    return absl::InvalidArgumentError(absl::StrCat("credentials file ", path, " is over 1 MiB"));
  }
  struct stat info = {};
  // A group may read it: Kubernetes gives a pod its secrets through one.
  if (::stat(path.c_str(), &info) == 0 && (info.st_mode & (S_IWGRP | S_IRWXO)) != 0) {
    ANNEAL_LOG(WARNING) << "credentials file is open to others; chmod 640 it"
                        << Field("path", path);
  }
  return ParseCredentials(text, path);
}

absl::string_view RoleName(Role role) {
  for (const NamedRole& named : kRoles) {
    if (named.role == role) return named.name;
  }
  return "";
}

std::optional<Role> RoleFrom(absl::string_view name) {
  for (const NamedRole& named : kRoles) {
    if (named.name == name) return named.role;
  }
  return std::nullopt;
}

bool IsAllowed(Role role, Right right) {
  switch (role) {
    case Role::kViewer:
      return right == Right::kRead;
    case Role::kUser:
      return right == Right::kRead || right == Right::kWrite;
    case Role::kAdmin:
      return true;
    case Role::kWorker:
      return right == Right::kWork;
  }
  return false;
}

bool IsIdentityName(absl::string_view text) {
  constexpr absl::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._@-";
  // Projects are folder names, so "." and ".." are not among them.
  return !text.empty() && text.size() <= 64 && text[0] != '.' &&
         text.find_first_not_of(kAllowed) == absl::string_view::npos;
}

std::string ProofOfKey(absl::string_view key) { return Sha256Hex(key); }

std::string ProofOfCertificate(absl::string_view subject) { return absl::StrCat("x509:", subject); }

bool IsCertificateSubject(absl::string_view text) {
  if (text.empty() || text.size() > kMaxSubjectBytes || !absl::StrContains(text, '=')) return false;
  for (const char c : text) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) return false;
  }
  return true;
}

absl::StatusOr<Caller> Authenticator::CallerOf(const grpc::ServerContextBase& context,
                                               Right right) const {
  absl::StatusOr<Caller> caller = Identify(context);
  if (!caller.ok()) {
    ANNEAL_RETURN_IF_ERROR(AdmitUnknown(context));
    return caller;
  }
  ANNEAL_RETURN_IF_ERROR(Admit(*caller));
  if (!IsAllowed(caller->role, right)) {
    return WithReason(absl::PermissionDeniedError(absl::StrCat(
                          WhatNeeds(right), "; this caller's role is ", RoleName(caller->role))),
                      "ROLE_TOO_WEAK");
  }
  return caller;
}

std::function<absl::Status()> Authenticator::RecheckOf(
    const grpc::ServerContextBase& context) const {
  return [this, caller = Identify(context)]() -> absl::Status {
    ANNEAL_RETURN_IF_ERROR(caller.status());
    return Recheck(*caller);
  };
}

ApiKeyAuthenticator::ApiKeyAuthenticator(const std::vector<Credential>& credentials, Clock& clock)
    : clock_(clock) {
  for (const Credential& credential : credentials)
    Add(ProofOfKey(credential.key), credential.caller, absl::InfiniteFuture());
}

bool ApiKeyAuthenticator::Add(const std::string& proof, Caller caller, absl::Time expiry) {
  caller.proof = proof;
  absl::MutexLock lock(&mu_);
  if (banned_.contains(proof)) return false;
  return entries_.try_emplace(proof, Entry{std::move(caller), expiry}).second;
}

void ApiKeyAuthenticator::Remove(const std::string& proof) {
  absl::MutexLock lock(&mu_);
  entries_.erase(proof);
}

void ApiKeyAuthenticator::Ban(const std::string& proof) {
  absl::MutexLock lock(&mu_);
  entries_.erase(proof);
  banned_.insert(proof);
}

absl::Status ApiKeyAuthenticator::Recheck(const Caller& caller) const {
  const std::optional<Entry> found = Find(caller.proof);
  if (!found.has_value()) {
    return Unauthenticated("the key or certificate of this stream has been revoked meanwhile",
                           "CREDENTIAL_REVOKED");
  }
  if (clock_.TimeNow() >= found->expiry) {
    return Unauthenticated("the key or certificate of this stream has expired meanwhile",
                           "CREDENTIAL_EXPIRED");
  }
  return absl::OkStatus();
}

std::optional<ApiKeyAuthenticator::Entry> ApiKeyAuthenticator::Find(
    const std::string& proof) const {
  absl::ReaderMutexLock lock(&mu_);
  const auto found = entries_.find(proof);
  if (found == entries_.end()) return std::nullopt;
  return found->second;
}

absl::StatusOr<Caller> ApiKeyAuthenticator::Identify(const grpc::ServerContextBase& context) const {
  ANNEAL_ASSIGN_OR_RETURN(const absl::string_view key, KeyOf(context));
  const std::optional<Entry> found = Find(ProofOfKey(key));
  if (!found.has_value()) return Unauthenticated("unknown API key", "API_KEY_UNKNOWN");
  if (clock_.TimeNow() >= found->expiry)
    return Unauthenticated("this API key has expired; ask for a new one", "API_KEY_EXPIRED");
  return found->caller;
}

absl::StatusOr<Caller> ApiKeyAuthenticator::IdentifyCertificate(absl::string_view subject) const {
  const std::string shown(subject.substr(0, kMaxSubjectBytes));
  const std::optional<Entry> found = Find(ProofOfCertificate(subject));
  if (!found.has_value()) {
    return Unauthenticated(
        absl::StrCat("nobody is known by a certificate of subject '", shown,
                     "': send an API key, or ask an admin for `anneal keys create "
                     "--certificate-subject`"),
        "CERTIFICATE_UNKNOWN");
  }
  if (clock_.TimeNow() >= found->expiry) {
    return Unauthenticated(absl::StrCat("what certificates of subject '", shown,
                                        "' stand for has expired; ask an admin to renew it"),
                           "CERTIFICATE_EXPIRED");
  }
  return found->caller;
}

bool ApiKeyAuthenticator::CarriesKey(const grpc::ServerContextBase& context) {
  return context.client_metadata().count("authorization") > 0;
}

}  // namespace anneal
