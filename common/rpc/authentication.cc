#include "common/rpc/authentication.h"

#include <openssl/crypto.h>
#include <sys/stat.h>

#include <fstream>
#include <iterator>
#include <set>

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

bool IsName(absl::string_view text) {
  constexpr absl::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._@-";
  // Projects are folder names, so "." and ".." are not among them.
  return !text.empty() && text.size() <= 64 && text[0] != '.' &&
         text.find_first_not_of(kAllowed) == absl::string_view::npos;
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
    if (words.size() != 3)
      return absl::InvalidArgumentError(absl::StrCat(where, "a line is KEY PROJECT CREATOR"));
    if (words[0].size() < kMinKeyBytes || words[0].size() > kMaxKeyBytes) {
      return absl::InvalidArgumentError(absl::StrCat(where, "a key has ", kMinKeyBytes, " to ",
                                                     kMaxKeyBytes, " characters, this one ",
                                                     words[0].size()));
    }
    if (!IsName(words[1]) || !IsName(words[2])) {
      return absl::InvalidArgumentError(absl::StrCat(
          where, "project and creator are [A-Za-z0-9._@-]{1,64}, without a dot in front"));
    }
    if (!seen.insert(words[0]).second)
      return absl::InvalidArgumentError(absl::StrCat(where, "this key occurs twice"));
    credentials.push_back({std::string(words[0]), {std::string(words[1]), std::string(words[2])}});
  }
  if (credentials.empty())
    return absl::InvalidArgumentError(absl::StrCat("credentials file ", path, " holds no key"));
  return credentials;
}

absl::Status Unauthenticated(absl::string_view message, absl::string_view reason) {
  return WithReason(absl::UnauthenticatedError(message), reason);
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
  if (::stat(path.c_str(), &info) == 0 && (info.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    ANNEAL_LOG(WARNING) << "credentials file can be read by others; chmod 600 it"
                        << Field("path", path);
  }
  return ParseCredentials(text, path);
}

ApiKeyAuthenticator::ApiKeyAuthenticator(const std::vector<Credential>& credentials) {
  for (const Credential& credential : credentials)
    entries_.push_back({Sha256Hex(credential.key), credential.caller});
}

absl::StatusOr<Caller> ApiKeyAuthenticator::CallerOf(const grpc::ServerContextBase& context) const {
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
  const std::string digest = Sha256Hex(value);
  const Entry* found = nullptr;
  for (const Entry& entry : entries_) {
    if (CRYPTO_memcmp(entry.key_digest.data(), digest.data(), digest.size()) == 0) found = &entry;
  }
  if (found == nullptr) return Unauthenticated("unknown API key", "API_KEY_UNKNOWN");
  return found->caller;
}

}  // namespace anneal
