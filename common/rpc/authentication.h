#pragma once
// Who calls: API keys in the `authorization: Bearer KEY` metadata, mapped to project and creator.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "grpcpp/server_context.h"

namespace anneal {

struct Caller {
  // What the caller may see: everything of other projects is NOT_FOUND for it.
  std::string project;
  // Recorded with what the caller makes.
  std::string creator;
};

// Asked once by every handler of a public service, first of all. (gRPC's own AuthMetadataProcessor
// works only with TLS, and server interceptors cannot refuse a call.) Thread-safe.
class Authenticator {
 public:
  virtual ~Authenticator() = default;
  // UNAUTHENTICATED if the call carries no credential that is known.
  virtual absl::StatusOr<Caller> CallerOf(const grpc::ServerContextBase& context) const = 0;
};

// One line of a credentials file.
struct Credential {
  std::string key;
  Caller caller;
};

// A credentials file is text that only its owner may read (a warning is logged otherwise). One key
// a line, `#` starts a comment:
//
//   KEY PROJECT CREATOR
//
// Keys have 20 to 256 characters; project and creator are [A-Za-z0-9._@-]{1,64} without a dot in
// front. Never empty. Errors name file and line, never a key. Servers know all keys of theirs;
// clients send the first of theirs.
absl::StatusOr<std::vector<Credential>> ReadCredentialsFile(const std::string& path);

// Knows the callers of a list. Keeps only SHA-256 digests of the keys and compares with all of them
// in constant time, so that neither timing nor a core dump tells a key.
class ApiKeyAuthenticator : public Authenticator {
 public:
  explicit ApiKeyAuthenticator(const std::vector<Credential>& credentials);

  absl::StatusOr<Caller> CallerOf(const grpc::ServerContextBase& context) const override;

 private:
  struct Entry {
    std::string key_digest;
    Caller caller;
  };
  std::vector<Entry> entries_;
};

}  // namespace anneal
