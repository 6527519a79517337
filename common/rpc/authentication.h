#pragma once
// Who calls, and what they may do: API keys in the `authorization: Bearer KEY` metadata, or client
// certificates, mapped to project, creator and role.

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "grpcpp/server_context.h"

namespace anneal {

// What a key is for.
enum class Role {
  kViewer,  // sees what its project has
  kUser,    // and adds to it, changes and deletes
  kAdmin,   // and operates the service: everything
  kWorker,  // joins the fleet, nothing else
};

// What a call needs.
enum class Right { kRead, kWrite, kOperate, kWork };

// "viewer", "user", "admin", "worker".
absl::string_view RoleName(Role role);
// Nothing for any other text.
std::optional<Role> RoleFrom(absl::string_view name);
bool IsAllowed(Role role, Right right);

struct Caller {
  // What the caller may see: everything of other projects is NOT_FOUND for it.
  std::string project;
  // Recorded with what the caller makes.
  std::string creator;
  Role role = Role::kUser;
  // What the caller has shown (ProofOfKey, ProofOfCertificate): tells callers of one project apart.
  std::string proof;
};

// How callers are known: by the SHA-256 of their key, in hexadecimal, ...
std::string ProofOfKey(absl::string_view key);
// ... or by the subject of their certificate in the form of RFC 2253, as `openssl x509 -noout
// -subject -nameopt RFC2253` shows it. No key's SHA-256 looks like it.
std::string ProofOfCertificate(absl::string_view subject);
// Whether `text` can be a subject: 1 to 512 bytes with an `=`, without control characters.
bool IsCertificateSubject(absl::string_view text);

// Asked once by every handler of a public service, first of all. (gRPC's own AuthMetadataProcessor
// works only with TLS, and server interceptors cannot refuse a call.) Thread-safe.
class Authenticator {
 public:
  virtual ~Authenticator() = default;
  // UNAUTHENTICATED if the call carries no credential that is known; else what Admit says; else
  // PERMISSION_DENIED (reason "ROLE_TOO_WEAK") if its role does not have the right. Refused calls
  // count like others, so that none of them is free.
  absl::StatusOr<Caller> CallerOf(const grpc::ServerContextBase& context, Right right) const;
  // Whoever it is, whatever they may.
  virtual absl::StatusOr<Caller> Identify(const grpc::ServerContextBase& context) const = 0;
  // Whether a caller whom we have let in is still known: a stream asks before it goes on, so that
  // it does not outlive its key. UNAUTHENTICATED if not.
  virtual absl::Status Recheck(const Caller& caller) const = 0;
  // Recheck of whoever makes this call, for as long as `this` lives.
  std::function<absl::Status()> RecheckOf(const grpc::ServerContextBase& context) const;

 private:
  // Whether somebody who is known may make one more call now.
  virtual absl::Status Admit(const Caller&) const { return absl::OkStatus(); }
  // What to say in place of UNAUTHENTICATED to somebody who is not, if anything.
  virtual absl::Status AdmitUnknown(const grpc::ServerContextBase&) const {
    return absl::OkStatus();
  }
};

// One line of a credentials file.
struct Credential {
  std::string key;
  Caller caller;
};

// A credentials file is text that only its owner may read (a warning is logged otherwise). One key
// a line, `#` starts a comment:
//
//   KEY PROJECT CREATOR [ROLE]
//
// Keys have 20 to 256 characters; project and creator are [A-Za-z0-9._@-]{1,64} without a dot in
// front; the role is user unless given. Never empty. Errors name file and line, never a key.
// Servers know all keys of theirs; clients send the first of theirs.
absl::StatusOr<std::vector<Credential>> ReadCredentialsFile(const std::string& path);

// Whether `text` can name a project or a creator.
bool IsIdentityName(absl::string_view text);

// Purpose: knows callers by their keys, and what certificates' subjects stand for. Keeps only
// SHA-256 digests of keys, and looks keys up by them, so that neither timing nor a core dump tells
// a key. Thread-safe.
class ApiKeyAuthenticator : public Authenticator {
 public:
  // `clock` tells when keys expire.
  ApiKeyAuthenticator(const std::vector<Credential>& credentials, Clock& clock);

  // From the next call on whoever shows `proof` is known as `caller` (whose own proof is ignored),
  // until `expiry` (infinite = for ever). False, and nothing changes, if the proof is known
  // already, or banned.
  bool Add(const std::string& proof, Caller caller, absl::Time expiry);
  // From the next call on it is not.
  void Remove(const std::string& proof);
  // The same, and Add never lets it in again.
  void Ban(const std::string& proof);

  // By the key alone. UNAUTHENTICATED with reason "API_KEY_EXPIRED" for one that has been known.
  absl::StatusOr<Caller> Identify(const grpc::ServerContextBase& context) const override;
  // Whom a certificate stands for that has been verified. UNAUTHENTICATED with reason
  // "CERTIFICATE_UNKNOWN" or "CERTIFICATE_EXPIRED", the latter for what was agreed on with Add.
  absl::StatusOr<Caller> IdentifyCertificate(absl::string_view subject) const;
  absl::Status Recheck(const Caller& caller) const override;
  // Whether the call carries anything that is meant as a key.
  static bool CarriesKey(const grpc::ServerContextBase& context);

 private:
  struct Entry {
    Caller caller;
    absl::Time expiry;
  };

  // Nothing if nobody is known by this proof.
  std::optional<Entry> Find(const std::string& proof) const;

  Clock& clock_;
  mutable absl::Mutex mu_;
  absl::flat_hash_map<std::string, Entry> entries_ ABSL_GUARDED_BY(mu_);  // by proof
  absl::flat_hash_set<std::string> banned_ ABSL_GUARDED_BY(mu_);
};

}  // namespace anneal
